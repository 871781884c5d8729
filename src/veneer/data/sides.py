"""The two sides of a run's rows, those that are trained and those that are evaluated, read from files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from veneer.config import DataSection
from veneer.data.files.sources import RowFile, RunFiles, training_files
from veneer.data.forms.record import Record
from veneer.data.kind_rows import KindRow, RowReader
from veneer.data.problems import RowProblem
from veneer.data.splits import CountedRecords, held_out, split_rows
from veneer.enums import RowKind, SplitBy
from veneer.events import Level, Note, Subscriber, ignore

SPLIT_BY_ANSWER = (
    "data.split by label holds out a share of the rows of each answer, not of desirable and undesirable ones; for "
    "that, name the column that tells them apart (data.split.column: label)"
)


@dataclass(frozen=True, slots=True)
class Sides:
    """The rows of a run before they are encoded."""

    train: list[KindRow]
    eval: list[KindRow]
    skipped: tuple[RowProblem, ...]
    """The rows of the files that cannot be used and were left out."""


def read_sides(data: DataSection, files: RunFiles, kind: RowKind, emit: Subscriber) -> Sides:
    """Read the rows of a run, and separate those that are evaluated from the others.

    Args:
        data: the section that says how rows are read, and which of them are held out.
        files: the files of rows.
        kind: the kind as which rows are read.
        emit: receives notes about the files.

    Raises:
        DataError: a file or some of its rows cannot be used, or nothing is left on a side.
    """
    rows, skipped = _read(files.train, data, kind, emit)
    if files.eval:
        evaluated, further = _read(files.eval, data, kind, emit)
        return Sides(rows, evaluated, (*skipped, *further))
    if not data.held_out:
        return Sides(rows, [], tuple(skipped))
    if kind is RowKind.LABELLED and data.split.by is SplitBy.LABEL and data.split.column is None:
        emit(Note(message=SPLIT_BY_ANSWER, level=Level.WARNING))
    return Sides(*split_rows(rows, [row.records[0] for row in rows], data, files.train, emit), tuple(skipped))


def evaluation_answers(data: DataSection, kind: RowKind, files: RunFiles) -> list[Record]:
    """The evaluation rows of a run over some files, each with the answer that is to be learned. No others are kept in
    memory.

    Raises:
        DataError: files or rows cannot be used.
    """
    if data.eval_file is not None:
        return [row.records[0] for row in _reader(files.eval, data, kind) if row.desirable]
    rows = _reader(files.train, data, kind)
    chosen = held_out(CountedRecords(rows, sum(1 for _ in rows)), data, files.train)
    return [row.records[0] for row, held in zip(rows, chosen, strict=True) if held and row.desirable]


def read_pairs(data: DataSection, emit: Subscriber = ignore) -> list[KindRow]:
    """The pairs of a chosen and a rejected answer in the training files of `data`, without encoding them.

    Raises:
        DataError: a file or some of its rows cannot be used.
    """
    pairs, _ = _read(training_files(data, emit), data, RowKind.PAIRS, emit)
    return pairs


def _read(
    files: Sequence[RowFile], data: DataSection, kind: RowKind, emit: Subscriber
) -> tuple[list[KindRow], list[RowProblem]]:
    """The usable rows of files, and those that are left out."""
    reader = _reader(files, data, kind)
    rows = list(reader)
    for note in reader.notes:
        emit(Note(message=note))
    return rows, reader.skipped


def _reader(files: Sequence[RowFile], data: DataSection, kind: RowKind) -> RowReader:
    return RowReader([str(file.path) for file in files], data, kind)
