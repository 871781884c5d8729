"""The rows of a comparison; whole comparisons are in `test_run.py`."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest

from helpers.models.tiny import rows, write_rows
from helpers.rows.preference_rows import pairs
from veneer.comparison.request import CompareRequest
from veneer.comparison.rows import prepare_rows, scored_columns, trained_on
from veneer.comparison.task import task_rows
from veneer.enums import Column, Method, ObjectiveName
from veneer.errors import ConfigError, DataError, OutputError
from veneer.events import Event, Level, Note, ignore


def test_pairs_are_split_once_for_imitation_preference_and_scores(tiny_model: Path, tmp_path: Path) -> None:
    content = pairs(20)
    asked = CompareRequest(
        model=str(tiny_model), data=str(write_rows(tmp_path / "pairs.jsonl", content)), output=str(tmp_path / "out"),
        methods=(Method.LORA,), held_out=0.3, limit=4, preference=ObjectiveName.DPO,
    )  # fmt: skip
    (tmp_path / "out").mkdir()
    made = prepare_rows(asked, tmp_path / "out", ignore)
    assert trained_on(made) == {"data.file": str(tmp_path / "out" / "train.jsonl")}
    assert made.pairs_file is not None
    imitated, preferred, scored = (
        [json.loads(line) for line in Path(file).read_text().splitlines()]
        for file in (made.train_files[0], made.pairs_file, made.eval_file)
    )
    assert (made.training, made.evaluation) == (len(preferred), len(scored)) == (14, 4)
    assert [(row["prompt"], row["completion"]) for row in imitated] == [
        (row["prompt"], row["chosen"]) for row in preferred
    ]
    asked_in_training = {row["prompt"] for row in preferred}
    assert not asked_in_training & {row["prompt"] for row in scored}
    assert all(row["completion"] == row["choices"][0] for row in scored)
    (tmp_path / "out" / "runs" / "base").mkdir(parents=True)
    (tmp_path / "out" / "runs" / "base" / "events.jsonl").touch()
    with pytest.raises(OutputError, match='preference: "dpo" there, "orpo" now'):
        prepare_rows(replace(asked, preference=ObjectiveName.ORPO), tmp_path / "out", ignore)


def test_rows_that_are_trained_and_scored_both_are_warned_of_and_few_rows_too(tiny_model: Path, tmp_path: Path) -> None:
    content = rows(40)
    data = write_rows(tmp_path / "rows.jsonl", content)
    seen = write_rows(tmp_path / "seen.jsonl", [*rows(3, seed=9), *content[:2]])
    heard: list[Event] = []
    config = replace(asked_of(tiny_model, data, tmp_path / "out"), eval_data=str(seen))
    few, both = prepare_rows(config, tmp_path / "out", heard.append).warnings
    assert few.startswith("5 rows say little: below 30")
    assert both.startswith("2 of 5 rows to score are also trained")
    assert both.splitlines()[1:] == [f"  - {seen}:4", f"  - {seen}:5"]
    assert [(event.level, event.message) for event in heard if isinstance(event, Note)] == [
        (Level.WARNING, few), (Level.WARNING, both),
    ]  # fmt: skip
    own = prepare_rows(replace(config, eval_data=None, held_out=0.8), tmp_path / "out", ignore)
    assert own.warnings == []


def test_repeats_on_both_sides_and_chosen_answers_of_pairs_are_warned_of(tiny_model: Path, tmp_path: Path) -> None:
    twice = write_rows(tmp_path / "twice.jsonl", rows(20) * 2)
    (said,) = prepare_rows(
        replace(asked_of(tiny_model, twice, tmp_path / "a"), held_out=0.75), tmp_path / "a", ignore
    ).warnings
    assert "of 30 rows to score are also trained" in said
    file = write_rows(tmp_path / "pairs.jsonl", pairs(31))
    config = replace(asked_of(tiny_model, file, tmp_path / "b"), preference=ObjectiveName.DPO, methods=(Method.LORA,))
    (said,) = prepare_rows(replace(config, eval_data=str(file)), tmp_path / "b", ignore).warnings
    assert said.startswith("31 of 31 rows to score are also trained")


def asked_of(model: Path, data: Path, output: Path, *assignments: str) -> CompareRequest:
    output.mkdir()
    return CompareRequest(
        model=str(model), data=str(data), output=str(output), held_out=0.3, assignments=assignments
    )  # fmt: skip


@pytest.mark.parametrize("name", ["train.jsonl", "eval.jsonl", "settings.json", "compare.json"])
def test_files_of_somebody_else_are_not_replaced(name: str, tiny_model: Path, tmp_path: Path) -> None:
    config = asked_of(tiny_model, write_rows(tmp_path / "rows.jsonl", rows(20)), tmp_path / "out")
    own = write_rows(tmp_path / "out" / name, rows(20, seed=1))
    before = own.read_bytes()
    with pytest.raises(OutputError, match=f"holds {name}, which no comparison has written"):
        prepare_rows(config, tmp_path / "out", ignore)
    assert own.read_bytes() == before
    own.unlink()
    prepare_rows(config, tmp_path / "out", ignore)
    prepare_rows(config, tmp_path / "out", ignore)


def test_settings_that_no_json_holds_are_kept_and_compared(tiny_model: Path, tmp_path: Path) -> None:
    config = asked_of(
        tiny_model, write_rows(tmp_path / "rows.jsonl", rows(20)), tmp_path / "out", "train.max_grad_norm=.inf",
        "tracking.project=nan",
    )  # fmt: skip
    for _ in range(2):
        prepare_rows(config, tmp_path / "out", ignore)
        (tmp_path / "out" / "runs" / "base").mkdir(parents=True, exist_ok=True)
        (tmp_path / "out" / "runs" / "base" / "events.jsonl").touch()
    changed = replace(config, assignments=("train.max_grad_norm=-.inf", "tracking.project=nan"))
    with pytest.raises(OutputError, match=r'not_finite: {"train.max_grad_norm": "inf"} there'):
        prepare_rows(changed, tmp_path / "out", ignore)


def test_columns_of_other_names_are_read_as_the_runs_read_them(tiny_model: Path, tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text("text,category\n" + "".join(f"question {number},answer {number}\n" for number in range(10)))
    mapped = "data.columns={prompt: text, completion: category}"
    config = asked_of(tiny_model, file, tmp_path / "out", mapped)
    made = prepare_rows(config, tmp_path / "out", ignore)
    assert (made.training, made.evaluation) == (7, 3)
    assert scored_columns(config) == {Column.PROMPT: "text", Column.COMPLETION: "category"}
    scored = task_rows(made.eval_file, None, scored_columns(config)).rows
    assert [row.reference.removeprefix("answer ") for row in scored] == [
        row.prompt.removeprefix("question ") for row in scored
    ]


def test_cells_of_csv_hold_json_by_what_their_columns_are_mapped_to(tiny_model: Path, tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    with file.open("w", newline="") as out:
        table = csv.writer(out)
        table.writerow(["dialog"])
        for number in range(10):
            turns = [{"role": "user", "content": f"question {number}"}, {"role": "assistant", "content": "answer"}]
            table.writerow([json.dumps(turns)])
    config = asked_of(tiny_model, file, tmp_path / "out", "data.columns={messages: dialog}")
    made = prepare_rows(config, tmp_path / "out", ignore)
    assert (made.training, made.evaluation) == (7, 3)
    first = json.loads(Path(made.train_files[0]).read_text().splitlines()[0])
    assert first["dialog"][1] == {"role": "assistant", "content": "answer"}


def test_pairs_of_other_names_are_written_by_veneers_own(tiny_model: Path, tmp_path: Path) -> None:
    theirs = [{"q": row["prompt"], "good": row["chosen"], "bad": row["rejected"]} for row in pairs(10)]
    file = write_rows(tmp_path / "pairs.jsonl", theirs)
    config = asked_of(tiny_model, file, tmp_path / "out", "data.columns={prompt: q, chosen: good, rejected: bad}")
    config = replace(config, preference=ObjectiveName.DPO, methods=(Method.LORA,))
    made = prepare_rows(config, tmp_path / "out", ignore)
    assert scored_columns(config) == {}
    assert made.pairs_file is not None
    assert json.loads(Path(made.pairs_file).read_text().splitlines()[0]).keys() == {"prompt", "chosen", "rejected"}


@pytest.mark.parametrize("skip", ["data.bad_rows=skip", "data={bad_rows: skip}"])
def test_rows_that_cannot_be_used_are_left_out_where_the_runs_may_and_told_of(
    skip: str, tiny_model: Path, tmp_path: Path
) -> None:
    content = [{"prompt": f"question {number}", "completion": "answer"} for number in range(10)]
    file = write_rows(tmp_path / "rows.jsonl", [*content, {"prompt": "no answer"}])
    with pytest.raises(DataError, match=r"rows\.jsonl:11(.|\n)*data\.bad_rows: skip leaves such rows out"):
        prepare_rows(asked_of(tiny_model, file, tmp_path / "refused"), tmp_path / "refused", ignore)
    told: list[Event] = []
    config = asked_of(tiny_model, file, tmp_path / "out", skip)
    made = prepare_rows(config, tmp_path / "out", told.append)
    assert (made.training, made.evaluation) == (7, 3)
    note, _ = told  # and that few rows are scored
    assert isinstance(note, Note)
    assert "1 of 11 rows cannot be used and are left out" in note.message


def test_a_row_that_json_cannot_hold_is_named(tiny_model: Path, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    lines = [f'{{"prompt": "question {number}", "completion": "answer"}}\n' for number in range(10)]
    file.write_text("".join([*lines, '{"prompt": "Q", "completion": "A", "weight": NaN}\n']))
    with pytest.raises(DataError, match=r"rows\.jsonl:11: (.|\n)*weight: nan"):
        prepare_rows(asked_of(tiny_model, file, tmp_path / "out"), tmp_path / "out", ignore)


def test_rows_of_a_group_are_on_one_side(tiny_model: Path, tmp_path: Path) -> None:
    content = [
        {"prompt": f"question {number}", "completion": "answer", "customer": f"of {number // 4}"}
        for number in range(40)
    ]
    file = write_rows(tmp_path / "rows.jsonl", content)
    made = prepare_rows(
        asked_of(tiny_model, file, tmp_path / "out", "data.split.by=group", "data.split.column=customer"),
        tmp_path / "out",
        ignore,
    )
    sides = [
        {json.loads(line)["customer"] for line in Path(name).read_text().splitlines()}
        for name in (made.train_files[0], made.eval_file)
    ]
    assert not sides[0] & sides[1]
    assert (made.training, made.evaluation) == (28, 12)


def test_pairs_of_a_group_are_on_one_side(tiny_model: Path, tmp_path: Path) -> None:
    content = [pair | {"customer": str(number // 5)} for number, pair in enumerate(pairs(20))]
    asked = replace(
        asked_of(
            tiny_model, write_rows(tmp_path / "pairs.jsonl", content), tmp_path / "out",
            "data.split={by: group, column: customer}",
        ),
        methods=(Method.LORA,), preference=ObjectiveName.DPO,
    )  # fmt: skip
    made = prepare_rows(asked, tmp_path / "out", ignore)
    customers = {str(pair["prompt"]): str(pair["customer"]) for pair in content}
    sides = [
        {customers[json.loads(line)["prompt"]] for line in Path(name).read_text().splitlines()}
        for name in (made.train_files[0], made.eval_file)
    ]
    assert not sides[0] & sides[1]


def test_a_split_beside_rows_to_score_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    file = write_rows(tmp_path / "rows.jsonl", [{"prompt": "question", "completion": "answer"}] * 4)
    asked = asked_of(tiny_model, file, tmp_path / "out", "data.split.by=near-duplicates")
    with pytest.raises(ConfigError, match=r"data.split.by near-duplicates says which rows are held out"):
        prepare_rows(replace(asked, eval_data=str(file)), tmp_path / "out", ignore)
