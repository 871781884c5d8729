"""Rows of data files as a run reads them, by the kind of rows that the run's objective needs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from veneer.config import DataSection
from veneer.data.files.given_names import shown_name
from veneer.data.files.json_values import BadRow
from veneer.data.files.readers import iterate_rows
from veneer.data.files.sources import files_named
from veneer.data.forms.formats import Remarks, to_plain_text, to_record
from veneer.data.forms.labels import refuse_labelled, to_labelled
from veneer.data.forms.preference import is_pair, to_pair
from veneer.data.forms.prompts import PromptRow, to_prompt
from veneer.data.forms.record import Record
from veneer.data.problems import RowProblem
from veneer.data.records import account, usable
from veneer.enums import BadRows, Column, RowKind

ROW_PARTS = {
    RowKind.ANSWERS: ("",),
    RowKind.PAIRS: ("chosen", "rejected"),
    RowKind.LABELLED: ("",),
    RowKind.TEXTS: ("",),
    RowKind.PROMPTS: ("",),
}
"""The names of the answers of a row, by the kind of the row."""
IMITATED_KINDS = frozenset({RowKind.ANSWERS, RowKind.TEXTS})
"""The kinds whose answers are learned as they are. Their long rows may be cut (`data.overlong`), and their tokens
may be kept on the disk (`data.cache`)."""


@dataclass(frozen=True, slots=True)
class KindRow:
    """A row of any kind."""

    records: tuple[Record, ...]
    """A record for each answer of the row. If an answer is to be learned, it is the first."""
    desirable: bool = True
    """Whether the answer is desirable, if rows have labels."""
    margin: float | None = None
    """How much better the first answer of a pair is, if the row says so."""
    prompt: PromptRow | None = None
    """The prompt with its columns, if rows have no answers."""

    @property
    def where(self) -> str:
        """The file and line of the row."""
        return self.records[0].where

    @property
    def whole(self) -> Record:
        """All of the row in one record, for finding repeated rows."""
        if len(self.records) == 1:
            return self.records[0]
        return replace(self.records[0], messages=tuple(turn for record in self.records for turn in record.messages))


def to_kind(
    row: Any,
    where: str,
    kind: RowKind | None,
    remarks: Remarks | None = None,
    columns: Mapping[Column, str] | None = None,
) -> KindRow:
    """A file's row as a row of a kind; see `veneer.data.forms.formats.to_record` for the other arguments.

    Args:
        kind: the kind; None derives it from the keys of the row, a pair or an answer.

    Raises:
        BadRow: the row is not of that kind.
    """
    match kind:
        case None:
            if is_pair(row, columns):
                return to_kind(row, where, RowKind.PAIRS, remarks, columns)
            return KindRow((to_record(row, where, remarks, columns),))
        case RowKind.ANSWERS:
            refuse_labelled(row, columns)
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


def numbered_rows(
    file: Path | str, columns: Mapping[Column, str], kind: RowKind | None
) -> Iterator[tuple[int, KindRow]]:
    """The rows that can be used, each with its index among all rows.

    Args:
        file: the rows: a file, a pattern or a dataset, as `data.file` names them.
        columns: maps veneer's name of a column or key to the file's name, if they differ.
        kind: the kind as which rows are read; None derives it from the keys of each row.

    Raises:
        DataError: the file cannot be read.
    """
    rows = chain.from_iterable(iterate_rows(one, columns=columns) for one in files_named(str(file)))
    for number, (where, raw) in enumerate(rows):
        try:
            if isinstance(raw, BadRow):
                raise raw
            row = to_kind(raw, where, kind, columns=columns)
        except BadRow:
            continue  # the rule `unusable-row` reports it
        yield number, row


class RowReader:
    """The rows of some files that a run uses, read one by one as they are requested. It can be iterated again.

    Args:
        files: the files, in order.
        data: the names of the columns, and whether a row that cannot be used is an error or is left out.
        kind: the kind as which rows are read.
    """

    def __init__(self, files: Sequence[str], data: DataSection, kind: RowKind) -> None:
        self._files, self._data, self._kind = files, data, kind
        self.notes: list[str] = []
        """Sentences about the files that were read to their end."""
        self.skipped: list[RowProblem] = []
        """The rows that were left out."""

    def __iter__(self) -> Iterator[KindRow]:
        """Read the files. After a bad row that may not be left out, the rest is read only to find further bad rows.

        Raises:
            DataError: see `veneer.data.records.read_file`; raised at the end of the file.
        """
        data = self._data
        self.notes, self.skipped = [], []
        for file in self._files:
            remarks = Remarks()
            problems: list[RowProblem] = []
            said: list[str] = []
            count = 0
            rows = iterate_rows(file, said, data.columns)
            for row in usable(rows, partial(to_kind, kind=self._kind, remarks=remarks, columns=data.columns), problems):
                count += 1
                if not problems or data.bad_rows is BadRows.SKIP:
                    yield row
            counted = account(shown_name(file), count, problems, remarks, data.bad_rows, data.split.column)
            self.notes += [*said, *counted]
            self.skipped += problems
