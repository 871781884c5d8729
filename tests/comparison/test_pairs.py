"""Pairs in a comparison: the rows that fine-tuning imitates, and those that runs are scored on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from helpers.models.tiny import write_rows
from veneer.comparison.pairs import chosen_row, read_pairs, scored_row
from veneer.data.forms.formats import to_record
from veneer.data.forms.preference import to_pair
from veneer.enums import BadRows, Column
from veneer.errors import DataError
from veneer.events import Event, Note, ignore

QUESTION = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Yes?"},
    {"role": "user", "content": "?"},
]
GOOD, BAD = ({"role": "assistant", "content": text} for text in ("good", "bad"))
TOOLS = [{"type": "function", "function": {"name": "weigh", "parameters": {}}}]
CALL = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "weigh", "arguments": {}}}]}
ROWS: dict[str, dict[str, Any]] = {
    "texts": {"prompt": "Q", "chosen": "good", "rejected": "bad"},
    "turns": {"prompt": QUESTION, "chosen": [GOOD], "rejected": [BAD], "tools": TOOLS},
    "implicit": {"chosen": [*QUESTION, GOOD], "rejected": [*QUESTION, BAD]},
    "hosted": {
        "input": {"messages": QUESTION, "tools": TOOLS},
        "preferred_output": [GOOD],
        "non_preferred_output": [BAD],
    },
    "Alpaca": {"instruction": "Q", "input": "more", "chosen": "good", "rejected": "bad"},
    "distilabel": {"instruction": "Hi", "chosen": [*QUESTION, GOOD], "rejected": [*QUESTION, BAD]},
    "an instruction that is null": {"instruction": None, "prompt": "Q", "chosen": "good", "rejected": "bad"},
    "an instruction beside turns": {
        "instruction": "Answer.", "conversations": QUESTION, "chosen": "good", "rejected": "bad",
    },
}  # fmt: skip


@pytest.mark.parametrize("form", ROWS)
def test_fine_tuning_imitates_the_chosen_answer_as_the_objectives_of_pairs_see_it(form: str) -> None:
    pair = to_pair(ROWS[form], "f:1")
    assert to_record(chosen_row(pair, ROWS[form]), "f:1") == pair.chosen
    scored = scored_row(pair, ROWS[form])
    assert scored["choices"] == ["good", "bad"]
    assert to_record(scored, "f:1") == pair.chosen


def test_calls_are_no_choices() -> None:
    row = {"prompt": QUESTION, "chosen": [CALL], "rejected": [BAD], "tools": TOOLS}
    assert "choices" not in scored_row(to_pair(row, "f:1"), row)


def test_rows_that_are_no_pairs_are_named(tmp_path: Path) -> None:
    file = write_rows(tmp_path / "rows.jsonl", [ROWS["texts"], {"prompt": "Q", "completion": "A"}])
    with pytest.raises(DataError, match=r"1 row cannot be used as pairs:(.|\n)*rows.jsonl:2: no pair of answers"):
        read_pairs(str(file), {}, BadRows.REFUSE, ignore)
    told: list[Event] = []
    assert [row for _, row in read_pairs(str(file), {}, BadRows.SKIP, told.append)] == [ROWS["texts"]]
    (note,) = told
    assert isinstance(note, Note)
    assert "1 row cannot be used as pairs; such rows are left out" in note.message


def test_pairs_of_other_names_are_read_by_veneers_own(tmp_path: Path) -> None:
    row = ROWS["texts"]
    theirs = {"question": row["prompt"], "good": row["chosen"], "bad": row["rejected"], "prompt": "another"}
    file = write_rows(tmp_path / "rows.jsonl", [theirs])
    columns = {Column.PROMPT: "question", Column.CHOSEN: "good", Column.REJECTED: "bad"}
    ((pair, named),) = read_pairs(str(file), columns, BadRows.REFUSE, ignore)
    assert named == {key: row[key] for key in ("prompt", "chosen", "rejected")}
    assert pair == to_pair(row, pair.where)
