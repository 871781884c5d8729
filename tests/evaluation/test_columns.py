"""The names of columns in files that are evaluated: given ones, those of the adapter's run, or veneer's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from helpers.models.tiny import run_config, write_rows
from helpers.processes.invoking import invoke
from veneer.config import ComputeSection
from veneer.enums import Column, Dtype
from veneer.errors import DataError
from veneer.evaluation.columns import pair_columns, record_columns, undesirable
from veneer.evaluation.report import Report
from veneer.evaluation.run import evaluate
from veneer.training.run import train

FLOAT32 = ComputeSection(device="cpu", dtype=Dtype.FLOAT32, threads=1)
COLUMNS = {Column.PROMPT: "question", Column.COMPLETION: "reply", Column.LABEL: "good"}
MAPPED = "data.columns={prompt: question, completion: reply, label: good}"


def foreign(count: int) -> list[dict[str, Any]]:
    return [
        {"id": n, "question": f"How heavy is {n // 2}?", "reply": f"{n} kilos", "good": n % 2 == 0}
        for n in range(count)
    ]


def own(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"prompt": row["question"], "completion": row["reply"], "label": row["good"]} for row in rows]


@pytest.fixture(scope="module")
def adapter(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mapped")
    file = write_rows(folder / "rows.jsonl", foreign(16))
    return train(run_config(tiny_model, file, folder / "run", "objective=kto", "train.steps=2", MAPPED)).output


def losses(report: Report) -> list[float]:
    return [value for one in report.comparison if one.name == "loss" for value in (one.base, one.adapter)]


def test_a_run_that_maps_columns_is_evaluated_by_its_mapping_and_on_files_by_veneers_names(
    adapter: Path, tiny_model: Path, tmp_path: Path
) -> None:
    rows = [row for row in foreign(30)[16:] if row["good"]]
    files = write_rows(tmp_path / "a.jsonl", rows), write_rows(tmp_path / "b.jsonl", own(rows))
    found = [evaluate(str(tiny_model), file, adapter=adapter, compute=FLOAT32, max_new_tokens=2) for file in files]
    assert losses(found[0]) == losses(found[1])
    assert len(losses(found[0])) == 2
    assert not any("undesirable" in warning for one in found for warning in one.warnings)
    # A checkpoint stands in the folder of its run.
    checkpoint = max((adapter / "checkpoints").glob("step-*"))
    again = evaluate(str(tiny_model), files[0], adapter=[checkpoint], compute=FLOAT32, max_new_tokens=2)
    assert losses(again) == losses(found[0])


def test_references_that_are_labelled_as_undesirable_are_told(adapter: Path, tiny_model: Path, tmp_path: Path) -> None:
    rows = foreign(30)[16:]
    for name, given in (("a", rows), ("b", own(rows))):
        file = write_rows(tmp_path / f"{name}.jsonl", given)
        report = evaluate(str(tiny_model), file, adapter=adapter, compute=FLOAT32, max_new_tokens=2, limit=5)
        assert [one for one in report.warnings if "2 of 5 rows are labelled as undesirable" in one]
    assert undesirable([{"label": "False"}, {"label": 1}, {}, {"kto_tag": 0}, "row"], {}, certain=False) == 2


def test_without_a_run_of_labelled_rows_a_label_counts_where_it_can_be_no_class(
    tiny_model: Path, tmp_path: Path
) -> None:
    base = str(tiny_model)
    report = evaluate(base, write_rows(tmp_path / "a.jsonl", own(foreign(6))), compute=FLOAT32, max_new_tokens=2)
    assert [one for one in report.warnings if "3 of 6 rows are labelled as undesirable" in one]
    answer = {"prompt": "Q", "completion": "A"}
    assert undesirable([answer | {"label": given} for given in (0, "false", "bad", False)], {}, certain=True) == 1
    assert undesirable([answer | {"label": False}], {Column.PROMPT: "prompt"}, certain=True) == 0


def test_a_base_alone_is_told_the_columns(tiny_model: Path, tmp_path: Path) -> None:
    rows = foreign(4)
    with pytest.raises(DataError, match="no format is known"):
        evaluate(str(tiny_model), rows, compute=FLOAT32)
    report = evaluate(str(tiny_model), rows, compute=FLOAT32, columns=COLUMNS, max_new_tokens=2)
    assert report.rows == 4
    file = write_rows(tmp_path / "rows.jsonl", rows)
    options = ("--columns", "{prompt: question, completion: reply}", "--max-new-tokens", 2, "--device", "cpu", "--json")
    done = invoke("evaluate", "--model", tiny_model, "--data", file, *options)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["rows"] == 4


def test_the_first_row_that_can_be_read_decides(tiny_model: Path, tmp_path: Path) -> None:
    run = run_config(tiny_model, tmp_path / "rows.jsonl", tmp_path / "run", MAPPED)
    (mixed, owned, none) = (
        write_rows(tmp_path / "mixed.jsonl", [{"question": "And?"}, *foreign(2)]),
        write_rows(tmp_path / "own.jsonl", [{"question": "?", "prompt": "How?", "completion": "So."}]),
        write_rows(tmp_path / "none.jsonl", [{"asked": "What?"}]),
    )
    assert record_columns(str(mixed), {}, run) == COLUMNS
    assert record_columns(str(owned), {}, run) == {}
    assert record_columns(str(none), {}, run) == COLUMNS
    assert record_columns(str(none), {Column.PROMPT: "asked"}, run) == {Column.PROMPT: "asked"}
    assert record_columns(str(tmp_path / "missing.jsonl"), {}, None) == {}


def test_pairs_of_a_reward_model_are_read_by_the_columns_of_its_run(tiny_model: Path, tmp_path: Path) -> None:
    rows = [{"q": f"What is {n}?", "good": f"It is {n}.", "bad": "I do not know."} for n in range(8)]
    file = write_rows(tmp_path / "pairs.jsonl", rows)
    mapped = "data.columns={prompt: q, chosen: good, rejected: bad}"
    config = run_config(tiny_model, file, tmp_path / "run", "objective=reward", "train.steps=1", mapped)
    folder = train(config).output
    done = invoke("evaluate", "--model", tiny_model, "--adapter", folder, "--data", file, "--device", "cpu", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["pairs"] == 8
    plain = [{"prompt": row["q"], "chosen": row["good"], "rejected": row["bad"]} for row in rows]
    assert pair_columns(str(write_rows(tmp_path / "plain.jsonl", plain)), {}, config) == {}
