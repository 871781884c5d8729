"""A preview of rows of a job before it is created: their tokens, and which of the tokens are trained on."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

from veneer.config import RunConfig
from veneer.data.files.readers import iterate_rows
from veneer.data.lint.row import LintSetting, Row, read_rows
from veneer.data.lint.view import spans_of, tokens_of
from veneer.io.checkpoint import read_model_config


def preview_rows(config: RunConfig, first: int, count: int) -> list[dict[str, Any]]:
    """Rows as their run encodes them, one entry for each answer. A pair has two.

    Args:
        config: the configuration of the run, whose rows are one file.
        first: the number of rows before the first one that is shown.
        count: the largest number of rows to show.

    Raises:
        DataError: the file cannot be read.
        ModelError: the model has no usable tokenizer.
    """
    tokenizer = read_model_config(config.model, revision=config.revision).tokenizer()
    setting = LintSetting(tokenizer, config.data.max_length, config.data.columns, config.objective)
    rows = iterate_rows(config.data.file or "", columns=config.data.columns)
    raw = list(islice(rows, first, first + count))
    return [
        {"where": _where(number, row), **_written(answer, name, config.data.max_length, setting)}
        for number, row in enumerate(read_rows(raw, setting), start=first + 1)
        for name, answer in _answers(row)
    ]


def _answers(row: Row) -> Iterator[tuple[str | None, Row]]:
    """The answers of a row, each with its name. A row that cannot be used is yielded once, to show its problem."""
    if row.problem is not None:
        yield None, row
    elif row.asked is not None:
        yield "prompt", row
    elif row.label:
        yield row.label, row
    else:
        yield row.part or None, row
        if row.other is not None:
            yield row.other.part, row.other


def _where(number: int, row: Row) -> str:
    """The number by which a row is requested, and its line in the file if that is another number. In CSV, for example,
    the names of the columns come first."""
    line = row.where.rpartition(":")[2]
    return f"row {number}" if line == str(number) else f"row {number} (line {line})"


def _written(row: Row, answer: str | None, most: int, setting: LintSetting) -> dict[str, Any]:
    tokens = tokens_of(row, setting)
    return {
        "answer": answer,
        "problem": row.problem,
        "tokens": [{"id": one.id, "text": one.text, "trained": one.trained} for one in tokens[:most]],
        "labels": [one.id if one.trained else -100 for one in tokens[:most]],
        "trained_spans": [[one.start, one.end] for one in spans_of(tokens[:most]) if one.trained],
        "length": len(tokens),
        "truncated": len(tokens) > most,
    }
