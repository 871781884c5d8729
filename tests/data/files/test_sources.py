"""Files by patterns and sources with weights, from the configuration to the lock of a run."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from helpers.models.tiny import rows, run_config, write_rows
from helpers.training.training_runs import stopping_after, weights
from veneer.config import DataSection, parse
from veneer.config.values import override
from veneer.data.files.sources import evaluation_files, files_named, keys_then, run_files, training_files
from veneer.data.rows import load_rows
from veneer.data.sides import evaluation_answers
from veneer.enums import RowKind
from veneer.errors import CheckpointError, ConfigError, DataError, Interrupted
from veneer.events import Event, Level, Note, StepDone, ignore
from veneer.exports.prompts import evaluation_rows
from veneer.io.checkpoint import open_checkpoint
from veneer.reproduction.run import reproduce
from veneer.run_folder import RunFolder
from veneer.training.folder.locked_inputs import recorded_files
from veneer.training.run import train
from veneer.training.steps import PackedSteps, Packing


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    folder = tmp_path / "corpus"
    folder.mkdir()
    for number, name in enumerate(("b.jsonl", "a.jsonl", "c.jsonl")):
        write_rows(folder / name, rows(4 + number, seed=number))
    (folder / "notes.txt").write_text("no rows")
    return folder


def test_a_pattern_means_its_files_by_name(corpus: Path) -> None:
    names = [file.name for file in files_named(str(corpus / "*.jsonl"))]
    assert names == ["a.jsonl", "b.jsonl", "c.jsonl"]
    assert files_named(str(corpus / "[bc].jsonl")) == [corpus / "b.jsonl", corpus / "c.jsonl"]
    assert len(files_named(str(corpus.parent / "**" / "*.jsonl"))) == 3
    (corpus / "[x].jsonl").write_text("{}")
    assert files_named(str(corpus / "[x].jsonl")) == [corpus / "[x].jsonl"], "a file's own name goes before"
    with pytest.raises(DataError, match=r"\*\.csv: no file matches this pattern"):
        files_named(str(corpus / "*.csv"))


def test_files_are_called_by_their_key_and_name(corpus: Path) -> None:
    data = DataSection.model_validate({"file": str(corpus / "*.jsonl"), "eval_file": str(corpus / "a.jsonl")})
    assert [file.key for file in training_files(data)] == [f"data.file {name}.jsonl" for name in "abc"]
    assert [file.key for file in evaluation_files(data, ignore)] == ["data.eval_file"]
    sources = [{"file": str(corpus / "a.jsonl"), "weight": 2}, {"file": str(corpus / "[bc].jsonl")}]
    data = DataSection.model_validate({"sources": sources})
    assert [(file.key, file.weight) for file in training_files(data)] == [
        ("data.sources.0.file", 2.0), ("data.sources.1.file b.jsonl", 1.0), ("data.sources.1.file c.jsonl", 1.0),
    ]  # fmt: skip


def test_files_of_one_name_have_keys_of_their_own(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for place in ("de", "en"):
        (corpus / place).mkdir()
        write_rows(corpus / place / "a.jsonl", rows(3))
    data = DataSection(file=str(corpus / "**" / "a.jsonl"), eval_file=str(corpus / "d?" / "*.jsonl"))
    keys = ["data.file a.jsonl", "data.file de/a.jsonl", "data.file en/a.jsonl"]
    assert [file.key for file in training_files(data)] == keys
    assert [file.key for file in evaluation_files(data, ignore)] == ["data.eval_file de/a.jsonl"]
    monkeypatch.chdir(corpus)
    for pattern, names in (("*.jsonl", "abc"), ("../corpus/?.jsonl", "abc"), ("e*/*", ["en/a"])):
        found = training_files(DataSection(file=pattern))
        assert [file.key for file in found] == [f"data.file {name}.jsonl" for name in names]


def test_files_are_found_under_the_keys_of_an_older_lock() -> None:
    """It had the names of files without their folders, and none where a pattern found one file."""
    now = ["data.file de/a.jsonl", "data.file b.jsonl", "data.eval_file x/c.jsonl"]
    older = ["data.file a.jsonl", "data.file b.jsonl", "data.eval_file"]
    assert list(keys_then(now, older).values()) == older
    assert list(keys_then(now, now).values()) == now
    # What has come is not taken for another file of its name, nor one of several for the only one.
    assert list(keys_then(["data.file a.jsonl", now[0]], older).values()) == [older[0], now[0]]
    assert list(keys_then(now[:2], ["data.file"]).values()) == now[:2]


def weighted(model: Path, corpus: Path, *assignments: str) -> Any:
    config = run_config(model, corpus / "a.jsonl", corpus.parent / "run", *assignments)
    sources = [
        {"file": str(corpus / "a.jsonl"), "weight": 2.0},
        {"file": str(corpus / "[bc].jsonl"), "weight": 0.5},
    ]
    values = config.model_dump(mode="json")
    values["data"] |= {"file": None, "sources": sources}
    return parse(override(values, assignments), where="the test")


@pytest.mark.parametrize("cache", ["never", "always"])
def test_an_epoch_holds_each_file_by_its_weight(cache: str, corpus: Path, tiny_model: Path) -> None:
    config = weighted(tiny_model, corpus, f"data.cache={cache}", f"data.cache_dir={corpus.parent / 'cache'}")
    found = load_rows(config.data, open_checkpoint(tiny_model).tokenizer())
    steps = PackedSteps(found, config.train, Packing(share=False, evaluation_share=False, pad_to_multiple_of=1))
    seen: Counter[str] = Counter()
    assert steps.total == 2  # 10 of a, 2 of b, 3 of c: 15 rows by 8
    for step in range(2):
        for index in steps._steps.examples(step).tolist():
            seen[found.train[index].where] += 1
    counts = Counter({name: sum(n for where, n in seen.items() if f"{name}.jsonl" in where) for name in "abc"})
    assert counts == {"a": 10, "b": 2, "c": 3}
    assert set(seen.values()) == {1, 2}


def test_a_weight_that_small_files_of_a_pattern_do_not_meet_is_warned_of(tmp_path: Path, tiny_model: Path) -> None:
    (tmp_path / "more").mkdir()
    for number in range(12):
        write_rows(tmp_path / f"{number}.jsonl", rows(1, seed=number))
    write_rows(tmp_path / "more" / "large.jsonl", rows(9))
    write_rows(tmp_path / "more" / "larger.jsonl", rows(9, seed=1))
    sources = [
        {"file": str(tmp_path / "*.jsonl"), "weight": 0.5},
        {"file": str(tmp_path / "more" / "*"), "weight": 0.5},
    ]
    said: list[Event] = []
    tokenizer = open_checkpoint(tiny_model).tokenizer()
    found = load_rows(DataSection.model_validate({"sources": sources}), tokenizer, said.append)
    assert found.in_epoch == 12 + 8
    [warning] = [event for event in said if isinstance(event, Note) and event.level is Level.WARNING]
    assert warning.message.startswith("data.sources.0.file: an epoch holds 12 rows, and 0.5 times its 12 rows are 6")


def test_sources_are_recorded_and_made_again(corpus: Path, tiny_model: Path) -> None:
    config = weighted(tiny_model, corpus, "train.epochs=2")
    result = train(config)
    lock = json.loads((result.output / "run.lock").read_text())
    assert lock["data"]["sources"] == [
        {"file": "data.sources.0.file", "weight": 2.0, "rows": 5, "rows_in_epoch": 10},
        {"file": "data.sources.1.file b.jsonl", "weight": 0.5, "rows": 4, "rows_in_epoch": 2},
        {"file": "data.sources.1.file c.jsonl", "weight": 0.5, "rows": 6, "rows_in_epoch": 3},
    ]
    assert lock["data"]["files"].keys() == {one["file"] for one in lock["data"]["sources"]}
    assert reproduce(result.output).same
    with pytest.raises(CheckpointError, match="several sources"):
        reproduce(result.output, data=corpus / "a.jsonl")
    write_rows(corpus / "c.jsonl", rows(6, seed=77))
    with pytest.raises(CheckpointError, match=r"data\.sources\.1\.file c\.jsonl: has changed"):
        reproduce(result.output)


@pytest.mark.parametrize("cache", ["never", "always"])
def test_files_that_come_while_a_run_trains_have_no_part_in_it(cache: str, corpus: Path, tiny_model: Path) -> None:
    """Neither in its lock nor among the rows that its report is made of."""
    settings = ("data.held_out=0.3", f"data.cache={cache}", f"data.cache_dir={corpus.parent / 'cache'}")
    config = weighted(tiny_model, corpus, *settings)
    held = [one.where for one in load_rows(config.data, open_checkpoint(tiny_model).tokenizer()).eval]
    pattern = config.model_dump(mode="json")
    pattern["data"]["sources"][1]["file"] = str(corpus / "[bcd].jsonl")
    config = parse(pattern, where="the test")

    def comes(event: object) -> None:
        if isinstance(event, StepDone):
            write_rows(corpus / "d.jsonl", rows(9, seed=8))

    result = train(config, emit=comes)
    lock = json.loads((result.output / "run.lock").read_text())
    assert [one["file"] for one in lock["data"]["sources"]] == [
        "data.sources.0.file", "data.sources.1.file b.jsonl", "data.sources.1.file c.jsonl",
    ]  # fmt: skip
    recorded = recorded_files(RunFolder(result.output))
    assert recorded == {one["file"] for one in lock["data"]["sources"]}
    found, _ = evaluation_rows(config, None, recorded)
    assert found is not None
    assert [record.where for record in found.records] == held
    (corpus / "c.jsonl").unlink()
    assert evaluation_rows(config, None, recorded) == (
        None, "data.sources.1.file c.jsonl, which the run was trained from, is not there any more",
    )  # fmt: skip


def test_a_weighted_run_goes_on_exactly_and_other_weights_are_refused(corpus: Path, tiny_model: Path) -> None:
    settings = ("train.epochs=3", "train.save_every=1")
    whole = weighted(tiny_model, corpus, *settings, f"output={corpus.parent / 'whole'}")
    parts = weighted(tiny_model, corpus, *settings, f"output={corpus.parent / 'parts'}")
    with pytest.raises(Interrupted):
        train(parts, stop=stopping_after(3))
    other = parts.model_dump(mode="json")
    other["data"]["sources"][0]["weight"] = 1.5
    with pytest.raises(CheckpointError, match=r"weights of data\.sources"):
        train(parse(other, where="the test"), resume=True)
    outputs = [train(whole).output, train(parts, resume=True).output]
    one, two = (weights(output, "lora") for output in outputs)
    assert one == two


def test_held_out_rows_of_several_files_are_found_again(corpus: Path, tiny_model: Path) -> None:
    config = run_config(tiny_model, corpus / "*.jsonl", corpus.parent / "run", "data.held_out=0.3")
    found = load_rows(config.data, open_checkpoint(tiny_model).tokenizer())
    assert [record.where for record in evaluation_answers(config.data, RowKind.ANSWERS, run_files(config.data))] == [
        one.where for one in found.eval
    ]
    assert len({one.where.rpartition(":")[0] for one in found.train}) == 3


def test_a_file_that_would_have_two_weights_is_refused(corpus: Path) -> None:
    """Two sources name it, or a pattern of one finds it."""
    once, pattern = str(corpus / "a.jsonl"), str(corpus / "[ab].jsonl")
    for second in (once, pattern):
        sources = [{"file": once, "weight": 2.0}, {"file": second}]
        with pytest.raises(DataError, match=r"more than once while using weights:\n.*a\.jsonl\nName each"):
            training_files(DataSection.model_validate({"sources": sources}))
    plain = DataSection.model_validate({"sources": [{"file": once}, {"file": pattern}]})
    assert [file.path.name for file in training_files(plain)] == ["a.jsonl", "a.jsonl", "b.jsonl"]


def test_a_run_has_one_file_or_sources(tiny_model: Path) -> None:
    for data in ({}, {"file": None}, {"sources": []}):
        with pytest.raises(ConfigError, match=r"data\.file: required, but not given"):
            parse({"model": "m", "output": "o", "data": data}, where="x")
    with pytest.raises(ConfigError, match=r"data\.file and data\.sources both say what to train on"):
        parse({"model": "m", "output": "o", "data": {"file": "a", "sources": [{"file": "b"}]}}, where="x")
    for bad in ([{"file": "b", "weight": 0}], [{"file": ""}], [{"weight": 2}], "b"):
        with pytest.raises(ConfigError, match=r"data\.sources"):
            parse({"model": "m", "output": "o", "data": {"sources": bad}}, where="x")
