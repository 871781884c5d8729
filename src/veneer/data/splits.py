"""Hold out a share of a file's rows for evaluation: by row, group, label or time, or with near-duplicates on one side.

The choice of evaluated rows depends only on the rows and on no seed, so that runs with several seeds, or the points of
a sweep, are evaluated on the same rows. Both sides keep the order of the file.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from veneer.config import DataSection
from veneer.data.files.readers import iterate_rows
from veneer.data.files.sources import RowFile
from veneer.data.forms.record import Record
from veneer.data.group_values import group_of
from veneer.data.kind_rows import RowReader
from veneer.data.lint.clusters import clusters
from veneer.data.lint.shingles import BANDS, LEAST_SIMILARITY, bands, shingles_of
from veneer.data.lint.spill import Spill
from veneer.data.micro_batches.orders import NUMBERS_AT_ONCE, order
from veneer.enums import SplitBy
from veneer.errors import DataError, listing
from veneer.events import Level, Note, Subscriber, ignore
from veneer.text.counting import count_of

# A different random stream from those of the epochs' orders, which start from 0.
_STREAM = 2**31
_TOGETHER = {
    SplitBy.ROW: "rows",
    SplitBy.GROUP: "rows of one group",
    SplitBy.LABEL: "rows",
    SplitBy.TIME: "rows of one moment",
    SplitBy.NEAR_DUPLICATES: "rows that are nearly the same",
}
"""Rows that are never separated."""

AnyRow = TypeVar("AnyRow")
"""A record, or an object with one."""


class Records(Protocol):
    """Rows whose number is known and that can be iterated again: a list, or files that are read again."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Record]: ...


def split_rows(
    rows: Sequence[AnyRow],
    records: Records,
    data: DataSection,
    files: Sequence[RowFile],
    emit: Subscriber,
) -> tuple[list[AnyRow], list[AnyRow]]:
    """Split the rows of training files by `data.held_out` and `data.split`; returns the rows to train and those to
    evaluate. The split is by index, since a file may be named twice.

    Args:
        rows: the rows to split.
        records: the record of each row, which determines its side.
        data, files, emit: see `held_out`.

    Raises:
        DataError: see `held_out`.
    """
    chosen = held_out(records, data, files, emit)
    train = [row for row, held in zip(rows, chosen, strict=True) if not held]
    return train, [row for row, held in zip(rows, chosen, strict=True) if held]


def held_out(
    records: Records, data: DataSection, files: Sequence[RowFile], emit: Subscriber = ignore
) -> NDArray[np.bool_]:
    """Which rows `data.held_out` and `data.split` hold out, bool [rows].

    Args:
        records: the rows.
        data: the section with the settings of the split.
        files: the files of the rows, in order.
        emit: receives a note if many more rows are held out than requested.

    Raises:
        DataError: one side would have no row, or some rows lack the column to split by, or it cannot be read.
    """
    chosen = _held_out(records, data, files)
    held, asked = int(chosen.sum()), max(1, round(data.held_out * len(chosen)))
    if held > 2 * asked:
        emit(
            Note(
                message=(
                    f"data.split by {data.split.by.value}: {held:,} of {count_of(len(chosen), 'row')} are held out, "
                    f"where data.held_out={data.held_out} asks for {asked:,}; {_TOGETHER[data.split.by]} stay on one "
                    "side"
                ),
                level=Level.WARNING,
            )
        )
    return chosen


def _held_out(records: Records, data: DataSection, files: Sequence[RowFile]) -> NDArray[np.bool_]:
    match data.split.by:
        case SplitBy.ROW:
            return _by_row(len(records), data.held_out)
        case SplitBy.GROUP:
            return _by_group(_numbered(value for _, value in _column(records, data, files)), data.held_out)
        case SplitBy.LABEL:
            own = data.split.column is None
            values: Iterable[str] = (
                map(_answer, records) if own else (value for _, value in _column(records, data, files))
            )
            return _by_label(_numbered(values), data.held_out)
        case SplitBy.TIME:
            return _by_time(records, data, files)
        case SplitBy.NEAR_DUPLICATES:
            return _by_group(_numbered(_near_duplicates(records)), data.held_out)


@dataclass(frozen=True, slots=True)
class CountedRecords:
    """Rows that are read from their files each time, and whose number is known (`Records`)."""

    rows: RowReader
    count: int

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Record]:
        return (row.records[0] for row in self.rows)


def _by_row(rows: int, share: float) -> NDArray[np.bool_]:
    mask = np.zeros(rows, dtype=np.bool_)
    mask[order(rows, seed=0, epoch=_STREAM)[: _count(rows, share)]] = True
    return mask


def _count(rows: int, share: float) -> int:
    count = max(1, round(share * rows))
    if count >= rows:
        raise DataError(
            f"data.held_out={share} of {count_of(rows, 'row')} leaves none to train on; give more rows or an eval_file"
        )
    return count


@dataclass(frozen=True, slots=True)
class _Kinds:
    """The kind of every row as a number, in the order of first appearance: 4 bytes a row."""

    of_rows: NDArray[np.uint32]
    sizes: list[int]
    """The number of rows of each kind."""

    def __len__(self) -> int:
        return len(self.of_rows)


def _numbered(values: Iterable[Hashable]) -> _Kinds:
    """The kinds of rows, given the value of each row."""
    numbers: dict[Hashable, int] = {}
    sizes: list[int] = []
    found = array("I")
    for value in values:
        number = numbers.setdefault(value, len(sizes))
        if number == len(sizes):
            sizes.append(0)
        sizes[number] += 1
        found.append(number)
    return _Kinds(np.frombuffer(found, dtype=np.uint32), sizes)


def _by_group(kinds: _Kinds, share: float) -> NDArray[np.bool_]:
    """Hold out groups of rows with equal values, in a fixed order, as long as they bring the number of rows nearer to
    the share."""
    count = _count(len(kinds), share)
    sizes = kinds.sizes
    if len(sizes) < 2:
        raise DataError("data.split: all rows are in one group, so none can be held out; split by row")
    chosen = np.zeros(len(sizes), dtype=np.bool_)
    held = 0
    for place in order(len(sizes), seed=0, epoch=_STREAM).tolist():
        grown = held + sizes[place]
        if grown < len(kinds) and (abs(grown - count) < abs(held - count)):
            chosen[place] = True
            held = grown
    if not held:
        # Every group is larger than twice the share: the smallest is nearest to it.
        chosen[sizes.index(min(sizes))] = True
    mask = np.empty(len(kinds), dtype=np.bool_)
    for start in range(0, len(kinds), NUMBERS_AT_ONCE):
        mask[start : start + NUMBERS_AT_ONCE] = chosen[kinds.of_rows[start : start + NUMBERS_AT_ONCE]]
    return mask


def _by_label(kinds: _Kinds, share: float) -> NDArray[np.bool_]:
    """Hold out about the share of each label's rows, and leave at least one row to train (largest remainder)."""
    count = _count(len(kinds), share)
    # In a fixed random order, so that the first rows of each label are a random selection of them.
    mixed = order(len(kinds), seed=0, epoch=_STREAM)
    met: dict[int, None] = {}
    for start in range(0, len(mixed), NUMBERS_AT_ONCE):
        met.update(dict.fromkeys(kinds.of_rows[mixed[start : start + NUMBERS_AT_ONCE]].tolist()))
    labels = list(met)
    sizes = [kinds.sizes[label] for label in labels]
    quotas = [min(math.floor(share * size), size - 1) for size in sizes]
    remainders = sorted(range(len(labels)), key=lambda place: quotas[place] - share * sizes[place])
    held = sum(quotas)
    for place in remainders:
        if held < count and quotas[place] < sizes[place] - 1:
            quotas[place] += 1
            held += 1
    if not held:
        raise DataError(
            "data.split by label: no label has two rows, so none can be held out; split by row, "
            "or name the column of the labels with data.split.column"
        )
    left = dict(zip(labels, quotas, strict=True))
    mask = np.zeros(len(kinds), dtype=np.bool_)
    for start in range(0, len(mixed), NUMBERS_AT_ONCE):
        rows = mixed[start : start + NUMBERS_AT_ONCE]
        for row, label in zip(rows.tolist(), kinds.of_rows[rows].tolist(), strict=True):
            if left[label]:
                left[label] -= 1
                mask[row] = True
    return mask


def _by_time(records: Records, data: DataSection, files: Sequence[RowFile]) -> NDArray[np.bool_]:
    """Hold out the latest rows. Rows of the same moment stay on one side."""
    count = _count(len(records), data.held_out)
    times = _times(records, data, files)
    border = np.partition(times, len(times) - count)[len(times) - count]
    chosen: NDArray[np.bool_] = times >= border
    if chosen.all():
        raise DataError(
            f"data.split by time: {data.split.column!r} is the same in too many rows to hold out {data.held_out} of "
            "them; split by row"
        )
    return chosen


def _times(records: Records, data: DataSection, files: Sequence[RowFile]) -> NDArray[np.float64]:
    """The moment of each row, as a number.

    Raises:
        DataError: a value is neither a number nor a date, or there are both. They cannot be compared, since the unit of
            the numbers is not known.
    """
    times, dated, problems = array("d"), bytearray(), []
    for where, value in _column(records, data, files):
        number = _number(value)
        seconds = _date(value) if number is None else number
        if seconds is None:
            problems.append(f"{where}: {value!r}")
        else:
            times.append(seconds)
            dated.append(number is None)
    if problems:
        raise DataError(
            f"data.split by time: {data.split.column!r} is neither a number nor a date (ISO 8601) in "
            f"{count_of(len(problems), 'row')}:\n{listing(problems)}"
        )
    dates = sum(dated)
    if 0 < dates < len(dated):
        few = dates <= len(dated) - dates
        fewer = [record.where for record, date in zip(records, dated, strict=True) if bool(date) is few]
        raise DataError(
            f"data.split by time: {data.split.column!r} is a number in {count_of(len(dated) - dates, 'row')} and a "
            f"date in {count_of(dates, 'row')}, which cannot be compared; write all in the same form. The "
            f"{'dates' if few else 'numbers'} are here:\n{listing(fewer)}"
        )
    return np.frombuffer(times, dtype=np.float64)


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _date(text: str) -> float | None:
    """The seconds since 1970 of a date in ISO 8601, which is in UTC if it names no zone."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _column(records: Records, data: DataSection, files: Sequence[RowFile]) -> Iterator[tuple[str, str]]:
    """The place of each record, and the value of the column in its row, as text; this reads the files again.

    Raises:
        DataError: some rows have no such value; raised after all rows are read.
    """
    name = data.split.column
    rows = chain.from_iterable(iterate_rows(file.path, columns=data.columns) for file in files)
    missing: list[str] = []
    for record in records:
        # Records are rows of the files, in their order; some rows have no record.
        value = next((row for where, row in rows if where == record.where), None)
        found = group_of(value.get(name)) if isinstance(value, dict) else None
        if found is None:
            missing.append(record.where)
        yield record.where, found or ""
    if missing:
        raise DataError(
            f"data.split.column: {len(missing)} of {len(records)} rows have no {name!r}, which is needed to split "
            f"them (an empty cell does not count); give each a value, or leave such rows out:\n{listing(missing)}"
        )


def _answer(record: Record) -> str:
    """The last assistant turn, which distinguishes rows if no column is named."""
    if record.text is not None:
        raise DataError(f"{record.where}: plain text has no label; name a column with data.split.column")
    return next(str(turn.get("content") or "") for turn in reversed(record.messages) if turn["role"] == "assistant")


def _near_duplicates(records: Records) -> list[int]:
    """For each record, the first of the records that are nearly equal to it."""
    with Spill() as spill:
        found = bytearray()
        for record in records:
            hashes = shingles_of(record)
            found += bands(hashes).tobytes()
            spill.append(hashes, np.array([len(hashes)]))
        signatures = np.frombuffer(found, dtype=np.uint32).reshape(-1, BANDS)
        return [int(root) for root in clusters(signatures, spill.read, LEAST_SIMILARITY)]
