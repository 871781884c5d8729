"""A row as a person reads it: its tokens with ids, which of them are trained, and the field that each comes from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, groupby
from typing import Any

from veneer.data.files.readers import iterate_rows
from veneer.data.lint.report import LintReport
from veneer.data.lint.row import LintSetting, Row, in_chunks, read_rows
from veneer.enums import Column

TEMPLATE_FIELD = "template"
"""The field of a token that does not come from the row: headers and control tokens."""
END_OF_TURN_FIELD = "end of turn"
"""The field of a trained control token that the template writes after the assistant's text."""
CONTINUED_TEXT = "·"
"""What is shown for a token that has no text of its own."""


@dataclass(frozen=True, slots=True)
class TokenView:
    """One token of a row, with its place in training."""

    id: int
    text: str
    """The characters of the token, or its name in the vocabulary if it has none. If a character consists of several
    tokens, the first of them has it and the others are empty: joined, the texts are the row's."""
    trained: bool
    field: str
    """The field of the row that the token comes from (`messages[1].content`), otherwise `TEMPLATE_FIELD` or
    `END_OF_TURN_FIELD`."""


@dataclass(frozen=True, slots=True)
class SpanView:
    """Tokens in a row that come from one field and are all trained, or all not."""

    start: int
    """The index of the first token."""
    end: int
    trained: bool
    field: str


def tokens_of(row: Row, setting: LintSetting) -> list[TokenView]:
    """The tokens of a row; none if it could not be encoded. Ids and mask are those of `Encoder.encode`."""
    trace = row.trace
    if trace is None or setting.tokenizer is None:
        return []
    backend = setting.tokenizer.backend
    names = {alias: token for token, alias in setting.tokenizer.aliases.items()} if trace.spelled else {}
    ids, mask = trace.example.tokens.tolist(), trace.example.loss_mask.tolist()
    placed = sorted((one.start, one.end, one.source.path) for one in row.fields if one.found)
    views = []
    at = shown = 0
    for index, trained, (start, end) in zip(ids, mask, trace.offsets, strict=True):
        while at < len(placed) and placed[at][1] <= start:
            at += 1
        inside = at < len(placed) and placed[at][0] <= start < end
        text = backend.id_to_token(index) or "" if start == end else trace.text[max(start, shown) : end]
        shown = max(shown, end)
        made = END_OF_TURN_FIELD if trained and index in setting.special_ids else TEMPLATE_FIELD
        views.append(TokenView(index, names.get(text, text), trained, placed[at][2] if inside else made))
    return views


def spans_of(tokens: Iterable[TokenView]) -> Iterator[SpanView]:
    """Runs of tokens of one field that are all trained, or all not."""
    place = 0
    for (trained, field), run in groupby(tokens, key=lambda token: (token.trained, token.field)):
        length = sum(1 for _ in run)
        yield SpanView(place, place + length, trained, field)
        place += length


def rows_again(report: LintReport, wanted: Iterable[int]) -> Iterator[tuple[int, Row]]:
    """Read some rows of a report's files again, in their order.

    Args:
        report: the report on the files.
        wanted: the indices of the rows.
    """
    for chunk in in_chunks(_chosen(report.files, set(wanted), report.setting.columns)):
        rows = read_rows([(where, raw) for _, where, raw in chunk], report.setting)
        yield from zip((number for number, _, _ in chunk), rows, strict=True)


def _chosen(files: Iterable[str], wanted: set[int], columns: Mapping[Column, str]) -> Iterator[tuple[int, str, Any]]:
    """The rows of these indices, as their files have them."""
    left = set(wanted)
    rows = chain.from_iterable(iterate_rows(file, columns=columns) for file in files)
    for number, (where, raw) in enumerate(rows):
        if not left:
            return
        if number in left:
            left.remove(number)
            yield number, where, raw
