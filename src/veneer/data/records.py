"""Read a data file into records, and name every row that cannot be used.

`veneer.data.files.readers` parses files, and `veneer.data.forms.formats` says what a row may hold. The bad rows of a
file are grouped by cause. One error refuses them all, or they are left out and reported if the caller allows it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any, TypeVar

from veneer.data.files.given_names import shown_name
from veneer.data.files.json_values import BadRow
from veneer.data.files.readers import iterate_rows
from veneer.data.forms.formats import Remarks, to_record
from veneer.data.forms.record import Record
from veneer.data.problems import RowProblem, grouped, printable
from veneer.enums import BadRows, Column
from veneer.errors import DataError
from veneer.text.counting import count_of

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class DataFile:
    """The rows of a file: each is either a record or named in `skipped`."""

    records: list[Record]
    skipped: tuple[RowProblem, ...]
    """The rows that were left out, each with its reason; empty unless bad rows may be skipped."""
    notes: tuple[str, ...]
    """Sentences about the file for the user."""


def read_file(
    path: Path | str, *, columns: Mapping[Column, str] | None = None, bad_rows: BadRows | None = None
) -> DataFile:
    """Read every row of a JSONL, JSON, CSV or Parquet file.

    Args:
        path: the file.
        columns: maps veneer's name of a column or key to the file's name; if any are given, no others are used.
        bad_rows: whether a row that cannot be used is an error or is left out. None means an error, whose message does
            not offer to leave rows out.

    Raises:
        DataError: the file is missing, of an unknown kind or without rows that can be used, or rows are bad and may
            not be skipped; one error names all of them by cause, with counts and the first lines of each.
    """
    notes: list[str] = []
    found = collect(iterate_rows(path, notes, columns), shown_name(path), columns=columns, bad_rows=bad_rows)
    return replace(found, notes=(*notes, *found.notes))


def collect(
    rows: Iterable[tuple[str, Any]],
    source: str,
    *,
    columns: Mapping[Column, str] | None = None,
    bad_rows: BadRows | None = None,
) -> DataFile:
    """Make records of rows that are already parsed.

    Args:
        rows: the place of each row, and the row, or the BadRow with the reason why it could not be parsed.
        source: the name of the file or other source, for messages.
        columns, bad_rows: see `read_file`.

    Raises:
        DataError: see `read_file`.
    """
    remarks = Remarks()
    problems: list[RowProblem] = []
    records = list(usable(rows, lambda row, where: to_record(row, where, remarks, columns), problems))
    notes = account(source, len(records), problems, remarks, bad_rows)
    return DataFile(records, tuple(problems), tuple(notes))


def usable(rows: Iterable[tuple[str, Any]], read: Callable[[Any, str], T], problems: list[RowProblem]) -> Iterator[T]:
    """The result of `read` for each row and its place; the rows that it refuses are added to `problems`."""
    for where, row in rows:
        try:
            if isinstance(row, BadRow):
                raise row
            found = read(row, where)
        except BadRow as problem:
            problems.append(RowProblem(where, str(problem)))
        else:
            yield found


def account(
    source: str,
    usable: int,
    problems: Sequence[RowProblem],
    remarks: Remarks,
    bad_rows: BadRows | None,
    split_by: str | None = None,
) -> list[str]:
    """The notes about a file after its rows have been read.

    Args:
        source: the name of the file.
        usable: the number of its rows that can be used.
        problems: the rows that cannot be used.
        remarks: the counts over the rows.
        bad_rows: see `read_file`.
        split_by: the column by which rows are held out, which therefore counts as used.

    Raises:
        DataError: the file has no usable rows, or bad rows that may not be skipped.
    """
    total = usable + len(problems)
    if problems and (bad_rows is not BadRows.SKIP or not usable):
        remedy = "\ndata.bad_rows: skip leaves such rows out" if usable and bad_rows is not None else ""
        raise DataError(
            f"{source}: {len(problems)} of {count_of(total, 'row')} cannot be used:\n{grouped(problems)}{remedy}"
        )
    if not usable:
        raise DataError(f"{source} holds no rows; a data file needs at least one")
    notes = _notes(source, remarks, split_by)
    if problems:
        notes.insert(
            0,
            f"{source}: {len(problems)} of {count_of(total, 'row')} "
            f"cannot be used and are left out:\n{grouped(problems)}",
        )
    return notes


def read_records(path: Path | str) -> list[Record]:
    """The records of a file in which every row must be usable.

    Raises:
        DataError: see `read_file`.
    """
    return read_file(path).records


def read_rows(path: Path | str, columns: Mapping[Column, str] | None = None) -> list[tuple[Record, Any]]:
    """Every row of a file as a record, and as the file has it; see `read_file` for `columns`.

    Raises:
        DataError: see `read_file`.
    """
    raw = dict(iterate_rows(path, columns=columns))
    return [(record, raw[record.where]) for record in collect(raw.items(), shown_name(path), columns=columns).records]


def _notes(source: str, remarks: Remarks, split_by: str | None) -> list[str]:
    notes = []
    unused = [(key, count) for key, count in remarks.unused.most_common() if key != split_by]
    if unused:
        names = ", ".join(
            f"{printable(repr(str(key)))} ({count:,} row{'s' * (count > 1)})" for key, count in unused[:20]
        )
        more = f" and {len(unused) - 20} more" if len(unused) > 20 else ""
        notes.append(f"{source}: these columns or keys are not used: {names}{more}")
    if remarks.empty:
        notes.append(f"{source}: rows with an empty assistant turn, which teaches to end at once: {remarks.empty:,}")
    if remarks.marked:
        notes.append(
            f"{source}: rows that mark a turn to train that is not the assistant's and so does not train: "
            f"{remarks.marked:,}"
        )
    return notes


def duplicates(records: Sequence[Record]) -> list[tuple[str, str]]:
    """The rows whose content repeats an earlier row exactly, as (place of the repeat, place of the first)."""
    seen: dict[bytes, str] = {}
    repeats = []
    for record in records:
        first = seen.setdefault(fingerprint(record), record.where)
        if first is not record.where:
            repeats.append((record.where, first))
    return repeats


def overlap(train: Sequence[Record], heldout: Sequence[Record]) -> list[tuple[str, str]]:
    """The held-out rows that exactly repeat a training row, as (place in `heldout`, first place in `train`)."""
    known: dict[bytes, str] = {}
    for record in train:
        known.setdefault(fingerprint(record), record.where)
    pairs = [(record.where, known.get(fingerprint(record))) for record in heldout]
    return [(where, first) for where, first in pairs if first is not None]


def fingerprint(record: Record) -> bytes:
    """16 bytes of a hash of a row's content, and of which of its turns train."""
    content = json.dumps([record.messages, record.tools, record.text, record.untrained], sort_keys=True, default=str)
    return blake2b(content.encode(), digest_size=16).digest()
