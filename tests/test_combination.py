"""What is known of several adapters is known of the folder that they are combined into."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

import veneer
from helpers.adapters.saved_adapters import their_adapters
from helpers.models.tiny import rows, write_rows
from veneer.adapters.combine import Combination
from veneer.adapters.files.store import CONFIG_FILE, save_adapter
from veneer.combination import combine_folders
from veneer.data.records import read_records
from veneer.data.trained_rows import row_hashes, trained_among, write_hashes
from veneer.errors import ConfigError, OutputError
from veneer.io.files import claimed
from veneer.run_folder import TRAINED_ROWS_FILE, trained_rows_of


def test_a_folder_that_is_written_in_two_ways_is_refused_and_not_counted_twice(tmp_path: Path) -> None:
    their_adapters(tmp_path, [{}])
    first = tmp_path / "first"
    (tmp_path / "link").symlink_to(first)
    for other in (tmp_path / "link", Path(os.path.relpath(first)), first / ".." / "first"):
        with pytest.raises(ConfigError, match="are the same folder; give it once, with the sum of the weights"):
            combine_folders({first: 0.5, other: 0.5}, Combination(), tmp_path / "sum")
    assert not (tmp_path / "sum").exists()


def test_what_is_in_a_folder_keeps_it_from_becoming_the_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model's folder would open with the adapter, and a stopped run's would be gone on with over it."""
    their_adapters(tmp_path, [{}])
    for name in ("model/config.json", "run/checkpoints/step-000032/state.json"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
        folder = tmp_path / name.partition("/")[0]
        with pytest.raises(OutputError, match="is there already and not empty; give another output folder"):
            combine_folders({tmp_path / "first": 1.0}, Combination(), folder)
        assert len(list(folder.iterdir())) == 1
    (tmp_path / "sum").mkdir()

    def at_once(place: Path, *given: object, **settings: object) -> None:
        save_adapter(place, *given, **settings)  # type: ignore[arg-type]
        (tmp_path / "sum" / "of-another").touch()

    monkeypatch.setattr("veneer.combination.save_adapter", at_once)
    with pytest.raises(OutputError, match="Directory not empty"):
        combine_folders({tmp_path / "first": 1.0}, Combination(), tmp_path / "sum")
    assert [file.name for file in (tmp_path / "sum").iterdir()] == ["of-another"]


def test_two_sums_for_one_folder_are_told_apart_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    their_adapters(tmp_path, [{}])
    monkeypatch.setattr("veneer.combination.combine_adapters", lambda *given: pytest.fail("they were combined"))
    with claimed(tmp_path / "sum"), pytest.raises(OutputError, match="another process is writing there; wait for it"):
        combine_folders({tmp_path / "first": 1.0}, Combination(), tmp_path / "sum")
    assert not (tmp_path / "sum").exists()


def test_weights_that_leave_nothing_are_refused(tmp_path: Path) -> None:
    their_adapters(tmp_path, [{}] * 2)
    with pytest.raises(ConfigError, match="every weight is 0, so that their sum changes nothing; give another weight"):
        combine_folders({tmp_path / "first": 0.0, tmp_path / "second": 0.0}, Combination(), tmp_path / "sum")
    combine_folders({tmp_path / "first": 0.0, tmp_path / "second": 1.0}, Combination(), tmp_path / "sum")


def test_rows_that_any_part_was_trained_on_are_rows_of_the_whole(tmp_path: Path) -> None:
    their_adapters(tmp_path, [{}] * 3)
    first, second, third = (tmp_path / name for name in ("first", "second", "third"))
    records = read_records(write_rows(tmp_path / "rows.jsonl", rows(6)))
    for folder, trained in ((first, records[:2]), (second, records[1:4])):
        write_hashes(folder / TRAINED_ROWS_FILE, [row_hashes(trained)])

    def known(*folders: Path) -> list[str]:
        output = tmp_path / "+".join(["sum", *(folder.name for folder in folders)])
        combine_folders(dict.fromkeys(folders, 0.5), Combination(), output)
        return trained_among(trained_rows_of(output), records)

    assert known(first, second) == [record.where for record in records[:4]]
    assert known(third, second) == [record.where for record in records[1:4]]
    assert known(tmp_path / "sum+first+second", third) == [record.where for record in records[:4]]
    assert known(third) == []
    assert not (tmp_path / "sum+third" / TRAINED_ROWS_FILE).exists()


def test_an_adapter_that_names_no_base_gives_no_name_to_the_whole(tmp_path: Path) -> None:
    their_adapters(tmp_path, [{}] * 3)
    folders = [tmp_path / name for name in ("first", "second", "third")]
    for folder, base in zip(folders, (None, None, "owner/base"), strict=True):
        config = json.loads((folder / CONFIG_FILE).read_text())
        changed = {"base_model_name_or_path": base, "revision": base and "v1"}
        (folder / CONFIG_FILE).write_text(json.dumps(config | changed))
    for used, bases in ((folders[:2], ()), (folders[1:], ("owner/base",))):
        output = tmp_path / f"sum-{len(bases)}"
        made = combine_folders(dict.fromkeys(used, 0.5), Combination(), output)
        written = json.loads((output / CONFIG_FILE).read_text())
        assert made.bases == bases
        assert (written["base_model_name_or_path"], written["revision"]) == (
            ("owner/base", "v1") if bases else (None, None)
        )


def test_a_folder_that_is_combined_twice_is_refused_and_not_dropped(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"adapters: must be a list .*, got 'alone'"):
        veneer.combine("alone", tmp_path / "sum")
    for adapters in (["one", "two", "one"], ["one", Path("one")], {"one": 1.0, Path("one"): 2.0}):
        with pytest.raises(ConfigError, match="given twice; give it once, with the sum of the weights"):
            veneer.combine(adapters, tmp_path / "sum")
