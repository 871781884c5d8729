"""Datasets by name, as the library `datasets` reads a folder on the disk: nothing is asked of a network."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace
from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from helpers.models.tiny import rows, run_config, write_rows
from helpers.support import needs
from veneer.data.files import hub
from veneer.data.files.hub import HubName, hub_file, read_name
from veneer.data.files.plain_json import NOT_JSON_KEY
from veneer.data.records import read_file
from veneer.enums import Column
from veneer.errors import CheckpointError, DataError
from veneer.events import Event, ignore
from veneer.io.leftovers import HELD
from veneer.reproduction.run import reproduce
from veneer.training.run import train

pytestmark = needs("datasets", "datasets is not installed")


@pytest.fixture
def dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two splits; what is read of it is kept below the test's folder."""
    import datasets

    folder = tmp_path / "set"
    (folder / "data").mkdir(parents=True)
    write_rows(folder / "data" / "train.jsonl", rows(20))
    write_rows(folder / "data" / "test.jsonl", rows(6, seed=3))
    monkeypatch.setattr(hub, "kept_datasets", lambda: tmp_path / "kept")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "arrow")
    datasets.disable_progress_bars()
    return folder


def lines(file: Path) -> list[object]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def test_a_name_has_a_split_and_may_have_a_configuration_and_a_revision() -> None:
    assert read_name("hub:own-er/na.me[train]") == HubName("own-er/na.me", "train", None, None)
    assert read_name("hub:o/n:main@1.2/x[train[:10%]]") == HubName("o/n", "train[:10%]", "main", "1.2/x")
    assert read_name("hub:o/n@abc[test]") == HubName("o/n", "test", None, "abc")
    for bad in (
        "hub:o/n",
        "hub:[train]",
        "hub:@x[train]",
        "hub:o/n@[train]",
        "hub:o/n[]",
        "hub:o/n[train",
        "hub:o/n[train]x",
    ):
        with pytest.raises(DataError, match=r"write hub:owner/name\[split\]"):
            read_name(bad)


def test_the_rows_of_a_split_are_written_once(dataset: Path) -> None:
    file = hub_file(f"hub:{dataset}[train]", ignore)
    assert lines(file) == rows(20)
    assert lines(hub_file(f"hub:{dataset}[test]", ignore)) == rows(6, seed=3)
    assert lines(hub_file(f"hub:{dataset}[train[:25%]]", ignore)) == rows(20)[:5]
    before = file.stat().st_mtime_ns
    assert hub_file(f"hub:{dataset}[train]", ignore) == file
    assert file.stat().st_mtime_ns == before


def test_a_folder_is_told_apart_by_its_place_and_read_again_after_a_change(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two projects have each a folder `./set`."""
    here = hub_file("hub:" + str(dataset) + "[train]", ignore)
    monkeypatch.chdir(tmp_path)
    first = hub_file("hub:./set[train]", ignore)
    (tmp_path / "other" / "set").mkdir(parents=True)
    write_rows(tmp_path / "other" / "set" / "train.jsonl", rows(3, seed=9))
    monkeypatch.chdir(tmp_path / "other")
    assert lines(hub_file("hub:./set[train]", ignore)) == rows(3, seed=9)
    monkeypatch.chdir(tmp_path)
    assert hub_file("hub:./set[train]", ignore) == first
    assert lines(first) == lines(here) == rows(20)
    write_rows(dataset / "data" / "train.jsonl", rows(20, seed=5))
    assert lines(hub_file("hub:./set[train]", ignore)) == rows(20, seed=5)


def test_a_folder_may_have_the_signs_of_a_revision_and_a_configuration_in_its_name(dataset: Path) -> None:
    """Versions side by side: `set@2` was read as the revision 2 of `set`, which has none."""
    for name in (f"{dataset}@2", f"{dataset}:x@3"):
        Path(name).mkdir()
        assert read_name(f"hub:{name}[train]") == HubName(name, "train", None, None)
        assert read_name(f"hub:{name}:main[train]") == HubName(name, "train", "main", None)
    write_rows(Path(f"{dataset}@2") / "train.jsonl", rows(3, seed=9))
    assert lines(hub_file(f"hub:{dataset}@2[train]", ignore)) == rows(3, seed=9)
    with pytest.raises(DataError, match="is a folder, whose files have no revisions; leave @4 out"):
        hub_file(f"hub:{dataset}@4[train]", ignore)


def test_a_folder_of_save_to_disk_is_refused_with_what_makes_a_file_of_it(dataset: Path, tmp_path: Path) -> None:
    import datasets

    saved = datasets.Dataset.from_list(rows(2))
    datasets.DatasetDict({"train": saved}).save_to_disk(tmp_path / "splits")
    assert lines(hub_file(f"hub:{tmp_path / 'splits'}[train]", ignore)) == rows(2), "which datasets reads"
    saved.save_to_disk(tmp_path / "saved")
    with pytest.raises(DataError, match=r"was written by save_to_disk of datasets.*to_parquet"):
        hub_file(f"hub:{tmp_path / 'saved'}[train]", ignore)


def test_rows_are_those_of_the_same_parquet_read_directly(dataset: Path, tmp_path: Path) -> None:
    """But for values that JSON has no form for: they refuse no row in which nothing reads them."""
    tools = [{"name": "f", "parameters": {"properties": {key: {"type": "string"}}}} for key in "ab"]
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo"}]
    table = pa.Table.from_pylist(
        [
            {"messages": turns, "tools": [tool], "raw": b"hello", "score": score, "day": date(2024, 5, 1)}
            for tool, score in zip(tools, (1.5, math.nan), strict=True)
        ]
    )
    (tmp_path / "arrow-set").mkdir()
    pq.write_table(table, tmp_path / "arrow-set" / "train.parquet")
    events: list[Event] = []
    file = hub_file(f"hub:{tmp_path / 'arrow-set'}[train]", events.append)
    found, direct = read_file(file), read_file(tmp_path / "arrow-set" / "train.parquet")
    assert [record.tools for record in found.records] == [(tool,) for tool in tools]
    assert [replace(record, where="") for record in found.records] == [
        replace(record, where="") for record in direct.records
    ]
    assert any("2 rows have nulls inside their objects" in str(event) for event in events)
    rest = [(row["score"], row["day"]) for row in map(json.loads, file.read_text().splitlines())]
    assert rest == [(1.5, "2024-05-01"), ({NOT_JSON_KEY: "nan"}, "2024-05-01")]
    with pytest.raises(DataError, match=r"text must be a string"):
        read_file(file, columns={Column.TEXT: "raw"})


def test_rows_that_python_cannot_hold_are_refused(tmp_path: Path, dataset: Path) -> None:
    table = pa.table({"text": ["a"], "when": pa.array([2147483647], pa.date32())})
    (tmp_path / "dates").mkdir()
    pq.write_table(table, tmp_path / "dates" / "train.parquet")
    with pytest.raises(DataError, match="a row cannot be read"):
        hub_file(f"hub:{tmp_path / 'dates'}[train]", ignore)


def test_half_a_split_that_a_killed_run_left_is_gone_after_the_next(dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    for name in (".partial-1-rows.jsonl", ".partial-1-rows.jsonl" + HELD):
        (tmp_path / "kept" / name).write_text("half")
    file = hub_file(f"hub:{dataset}[train]", ignore)
    assert list((tmp_path / "kept").iterdir()) == [file]


def test_a_run_trains_and_is_made_again_from_the_name(dataset: Path, tiny_model: Path, tmp_path: Path) -> None:
    named = run_config(tiny_model, Path("x"), tmp_path / "named", f'data.file="hub:{dataset}[train]"')
    plain = run_config(tiny_model, dataset / "data" / "train.jsonl", tmp_path / "plain")
    weights = [(train(one).output / "adapter_model.safetensors").read_bytes() for one in (named, plain)]
    assert weights[0] == weights[1]
    assert reproduce(tmp_path / "named").same
    hub_file(f"hub:{dataset}[train]", ignore).unlink()
    assert reproduce(tmp_path / "named").same, "the rows are read from the dataset again"
    hub_file(f"hub:{dataset}[train]", ignore).write_text(json.dumps(rows(1)[0]) + "\n")
    with pytest.raises(CheckpointError, match=r"data data\.file: has changed"):
        reproduce(tmp_path / "named")


def test_a_failure_of_the_network_that_is_no_error_of_the_system_is_told(
    dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class ProxyError(Exception):
        """As those of the hub's HTTP client, a kind of nothing that Python has."""

    def refused(*asked: object, **options: object) -> object:
        raise ProxyError("403 Forbidden")

    monkeypatch.setattr("datasets.load_dataset", refused)
    with pytest.raises(DataError, match=r"cannot be loaded: 403 Forbidden\nCheck the name"):
        hub_file(f"hub:{dataset}[train]", ignore)


def test_what_cannot_be_had_is_refused(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (f"hub:{dataset}[validation]", f"hub:{dataset / 'absent'}[train]"):
        with pytest.raises(DataError, match="cannot be loaded"):
            hub_file(name, ignore)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"pip install 'veneer\[hub\]'"):
        hub_file(f"hub:{dataset}[test]", ignore)
