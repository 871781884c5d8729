"""Pairs in a comparison: the rows for fine-tuning that they give, and the rows that runs are scored on.

Every method is fine-tuned on the chosen answers, and the result is trained further on the pairs. Both are scored on the
chosen answers of other pairs. If the answers are plain texts, they are also scored on which of the two answers is the
likelier (the metric `choice`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from veneer.data.files.json_values import BadRow
from veneer.data.files.readers import iterate_rows
from veneer.data.files.sources import files_named
from veneer.data.forms.formats import given_keys
from veneer.data.forms.preference import Pair, of_alpaca, to_pair
from veneer.data.forms.record import Record
from veneer.data.problems import RowProblem, grouped
from veneer.enums import BadRows, Column
from veneer.errors import DataError
from veneer.evaluation.metrics.choice import CHOICES
from veneer.events import Note, Subscriber
from veneer.text.counting import count_of


def read_pairs(name: str, columns: Mapping[Column, str], bad_rows: BadRows, emit: Subscriber) -> list[tuple[Pair, Any]]:
    """Every pair of the files that a name means, with its row under veneer's own names of columns.

    Args:
        name: the name of the files.
        columns: maps veneer's name of a column or key to the files' name, if they differ; then no others are used.
        bad_rows: whether rows that are not pairs are an error, or left out.
        emit: receives a note about the rows that are left out.

    Raises:
        DataError: rows are not pairs, and may not be left out; all are named, by cause.
    """
    found, problems = list[tuple[Pair, Any]](), list[RowProblem]()
    for file in files_named(name):
        for where, row in iterate_rows(file, columns=columns):
            try:
                if isinstance(row, BadRow):
                    raise row
                named = given_keys(row, columns) if columns else row
                found.append((to_pair(named, where), named))
            except BadRow as problem:
                problems.append(RowProblem(where, str(problem)))
    if problems:
        said = f"{count_of(len(problems), 'row')} cannot be used as pairs"
        if bad_rows is not BadRows.SKIP or not found:
            raise DataError(f"{said}:\n{grouped(problems)}")
        emit(Note(message=f"{said}; such rows are left out:\n{grouped(problems)}"))
    return found


def chosen_row(pair: Pair, row: Mapping[str, Any]) -> dict[str, Any]:
    """The row for fine-tuning on a pair's chosen answer.

    Args:
        pair: the pair that `row` contains.
        row: the row as the file has it.
    """
    if of_alpaca(row):
        given = {key: row[key] for key in ("instruction", "input", "system") if row.get(key) is not None}
        return {**given, "output": row["chosen"]}
    record = pair.chosen
    tools = {"tools": list(record.tools)} if record.tools else {}
    if record.completion is not None:
        return {"prompt": record.prompt, "completion": record.completion, **tools}
    first = record.trained_turns[0]
    return {"prompt": list(record.messages[:first]), "completion": list(record.messages[first:]), **tools}


def scored_row(pair: Pair, row: Mapping[str, Any]) -> dict[str, Any]:
    """`chosen_row`, with both answers as choices if they are plain texts."""
    answers = [_text(record) for record in pair.records]
    return chosen_row(pair, row) | ({CHOICES: answers} if all(answers) else {})


def _text(record: Record) -> str | None:
    """The answer of a record that is one turn of text only."""
    last = record.messages[-1]
    alone = len(record.trained_turns) == 1 and not last.get("tool_calls")
    return last["content"] if alone and isinstance(last["content"], str) else None
