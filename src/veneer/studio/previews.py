"""The first rows of a job that is not made: their tokens, and which of them train."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from typing import Any

from veneer.config import RunConfig
from veneer.data.json_values import BadRow
from veneer.data.labels import NAMES, to_labelled
from veneer.data.lint.row import LintSetting, Row, read_rows
from veneer.data.lint.view import spans_of, tokens_of
from veneer.data.prompts import to_prompt
from veneer.data.records import iterate_rows
from veneer.enums import RowKind
from veneer.errors import DataError
from veneer.io.checkpoint import open_checkpoint


def preview_rows(config: RunConfig, first: int, count: int) -> list[dict[str, Any]]:
    """Rows as their run has them, one entry for each answer: a pair has two.

    Args:
        config: the run; its rows are one file.
        first: rows before the first one that is shown.
        count: rows that are shown at most.

    Raises:
        DataError: the file cannot be read.
        ModelError: the model has no usable tokenizer.
    """
    tokenizer = open_checkpoint(config.model, revision=config.revision).tokenizer()
    setting = LintSetting(tokenizer, config.data.max_length, config.data.columns)
    raw = list(islice(iterate_rows(config.data.file or ""), first, first + count))
    kind = config.objective.rows
    if kind is RowKind.PROMPTS:
        return [_asked(where, one, config.data.max_length, setting) for where, one in raw]
    read = read_rows([(where, _unlabelled(one)) for where, one in raw] if kind is RowKind.LABELLED else raw, setting)
    return [
        _written(answer, name, config.data.max_length, setting)
        for row, (_, whole) in zip(read, raw, strict=True)
        for name, answer in _answers(row, whole, kind, setting)
    ]


def _asked(where: str, raw: Any, most: int, setting: LintSetting) -> dict[str, Any]:
    """A row that asks, as its prompt's tokens: none of them trains, since the answers are sampled."""
    ids, problem = [], None
    assert setting.encoder is not None, "a preview has a tokenizer"
    try:
        prompt = to_prompt(raw, where, setting.columns).record
        ids = setting.encoder.prompt_tokens(prompt.messages, prompt.tools)
    except (BadRow, DataError) as error:
        problem = str(error)
    return {
        "where": f"row {where.rpartition(':')[2]}",
        "answer": None if problem else "prompt",
        "problem": problem,
        "tokens": [{"id": one, "text": _spelled(one, setting), "trained": False} for one in ids[:most]],
        "labels": [-100] * len(ids[:most]),
        "trained_spans": [],
        "length": len(ids),
        "truncated": len(ids) > most,
    }


def _spelled(token: int, setting: LintSetting) -> str:
    """The characters of a token; its name in the vocabulary where it is a part of one character."""
    assert setting.tokenizer is not None, "a preview has a tokenizer"
    backend = setting.tokenizer.backend
    text: str = backend.decode([token], skip_special_tokens=False)
    return text if text and "\ufffd" not in text else backend.id_to_token(token) or ""


def _unlabelled(raw: Any) -> Any:
    """A row without its label, which is none of what its answer says."""
    return {key: value for key, value in raw.items() if key not in NAMES} if isinstance(raw, dict) else raw


def _answers(row: Row, raw: Any, kind: RowKind, setting: LintSetting) -> Iterator[tuple[str | None, Row]]:
    """The answers of a row, each with what it is called; a row of another kind has its problem said."""
    wanted = None
    if row.problem is not None or row.record is None:
        yield None, row
    elif kind is RowKind.LABELLED:
        try:
            yield "desirable" if to_labelled(raw, row.where, columns=setting.columns).desirable else "undesirable", row
        except BadRow as problem:
            wanted = str(problem)
    elif kind is RowKind.PAIRS and row.rejected is None:
        wanted = "this is one answer, and the objective takes pairs of a chosen and a rejected one"
    elif kind is not RowKind.PAIRS and row.rejected is not None:
        wanted = "this is a pair of answers, and the objective takes rows of one"
    elif kind is RowKind.TEXTS and row.record.text is None:
        wanted = "this is no plain text, and the objective takes nothing else"
    elif row.rejected is not None:
        yield "chosen", row
        yield "rejected", replace(row, record=row.rejected, trace=row.rejected_trace)
    else:
        yield None, row
    if wanted is not None:
        yield None, replace(row, problem=wanted, trace=None)


def _written(row: Row, answer: str | None, most: int, setting: LintSetting) -> dict[str, Any]:
    tokens = tokens_of(row, setting)
    return {
        "where": f"row {row.where.rpartition(':')[2]}",
        "answer": answer,
        "problem": row.problem,
        "tokens": [{"id": one.id, "text": one.text, "trained": one.trained} for one in tokens[:most]],
        "labels": [one.id if one.trained else -100 for one in tokens[:most]],
        "trained_spans": [[one.start, one.end] for one in spans_of(tokens[:most]) if one.trained],
        "length": len(tokens),
        "truncated": len(tokens) > most,
    }
