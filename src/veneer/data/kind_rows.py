"""A row of a data file as a run reads it, by the kind of rows that the run's objective takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from veneer.data.forms.formats import Record, Remarks, to_plain_text, to_record
from veneer.data.forms.labels import to_labelled
from veneer.data.forms.preference import to_pair
from veneer.data.forms.prompts import PromptRow, to_prompt
from veneer.enums import Column, RowKind

PARTS = {
    RowKind.ANSWERS: ("",),
    RowKind.PAIRS: ("chosen", "rejected"),
    RowKind.LABELLED: ("",),
    RowKind.TEXTS: ("",),
    RowKind.PROMPTS: ("",),
}
"""What the answers of a row are called, by its kind."""
CUT = frozenset({RowKind.ANSWERS, RowKind.TEXTS})
"""The kinds of which a long row may be cut (`data.overlong`). Of others it is left out."""


@dataclass(frozen=True, slots=True)
class KindRow:
    """A row of any kind."""

    records: tuple[Record, ...]
    """A record for each answer of the row; the first answer is the one to be learned, if any is."""
    desirable: bool = True
    """Whether the answer is desirable, where rows have labels."""
    margin: float | None = None
    """How much better the first answer is, where rows of pairs say it."""
    prompt: PromptRow | None = None
    """The prompt with its columns, where rows have no answers."""

    @property
    def where(self) -> str:
        """File and line."""
        return self.records[0].where

    @property
    def whole(self) -> Record:
        """All that the row says in one record, by which repeated rows are found."""
        if len(self.records) == 1:
            return self.records[0]
        return replace(self.records[0], messages=tuple(turn for record in self.records for turn in record.messages))


def to_kind(
    row: Any, where: str, kind: RowKind, remarks: Remarks | None = None, columns: Mapping[Column, str] | None = None
) -> KindRow:
    """The row of a kind that a file's row says; see `veneer.data.forms.formats.to_record` for the other arguments.

    Raises:
        BadRow: it says none of that kind.
    """
    match kind:
        case RowKind.ANSWERS:
            return KindRow((to_record(row, where, remarks, columns),))
        case RowKind.TEXTS:
            return KindRow((to_plain_text(row, where, remarks, columns),))
        case RowKind.PAIRS:
            pair = to_pair(row, where, remarks, columns)
            return KindRow(pair.records, margin=pair.margin)
        case RowKind.LABELLED:
            found = to_labelled(row, where, remarks, columns)
            return KindRow((found.record,), found.desirable)
        case RowKind.PROMPTS:
            prompt = to_prompt(row, where, columns)
            return KindRow((prompt.record,), prompt=prompt)
