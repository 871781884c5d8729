"""Keep a share of a file's rows for evaluation: by rows, by group, by label, by time, or near-duplicates on one side.

Which rows are evaluated follows from the rows alone: no seed has a part in it, so that runs of several seeds, or the
points of a sweep, are evaluated on the same rows. Both sides keep the order of the file.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from veneer.config import DataSection
from veneer.data.lint.clusters import clusters
from veneer.data.lint.shingles import SIMILARITY, bands, shingles_of
from veneer.data.lint.spill import Spill
from veneer.data.orders import Indices, order
from veneer.data.readers import iterate_rows
from veneer.data.records import Record, RecordReader
from veneer.data.sources import RowFile, evaluation_files, training_files
from veneer.enums import SplitBy
from veneer.errors import DataError, listing

# Another stream than the epochs' orders, which start from 0.
_STREAM = 2**31

Sides = tuple[list[Record], list[Record]]
"""The rows to train, and those to evaluate."""


class Records(Protocol):
    """Rows whose number is known, and which can be gone through again: a list, or files that are read again."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Record]: ...


def split_records(records: list[Record], data: DataSection) -> Sides:
    """Split the rows to train on as `data.held_out` and `data.split` say.

    Raises:
        DataError: as `held_out`.
    """
    return _apart(records, held_out(records, data))


def split(records: list[Record], share: float) -> Sides:
    """Split records into those to train and, `share` of them and at least one, those to evaluate.

    Which ones are evaluated follows from the number of records alone.

    Raises:
        DataError: there are too few records to have some on both sides.
    """
    return _apart(records, _by_row(len(records), share))


def held_out(records: Records, data: DataSection) -> NDArray[np.bool_]:
    """Which rows are held out by `data.held_out` and `data.split`, bool [rows].

    Raises:
        DataError: one side would have no row, or the column to split by is missing or cannot be read in some rows.
    """
    match data.split.by:
        case SplitBy.ROW:
            return _by_row(len(records), data.held_out)
        case SplitBy.GROUP:
            chosen = _by_group(_column(records, data), data.held_out)
        case SplitBy.LABEL:
            values = [_answer(one) for one in records] if data.split.column is None else _column(records, data)
            chosen = _by_label(values, data.held_out)
        case SplitBy.TIME:
            chosen = _by_time(records, _column(records, data), data)
        case SplitBy.NEAR_DUPLICATES:
            chosen = _by_group(_near_duplicates(records), data.held_out)
    return _mask(len(records), chosen)


def evaluation_records(data: DataSection) -> list[Record]:
    """The rows that a run is evaluated on: those of `data.eval_file`, or those that are held out. Of the others none is
    kept in memory.

    Raises:
        DataError: files or rows cannot be used.
    """
    if data.eval_file is not None:
        return list(RecordReader(_names(evaluation_files(data)), data.columns, data.bad_rows))
    rows = RecordReader(_names(training_files(data)), data.columns, data.bad_rows)
    chosen = held_out(CountedRecords(rows, sum(1 for _ in rows)), data)
    return [record for record, held in zip(rows, chosen, strict=True) if held]


@dataclass(frozen=True, slots=True)
class CountedRecords:
    """Rows that are read from their files each time, and whose number is known (`Records`)."""

    rows: RecordReader
    count: int

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Record]:
        return iter(self.rows)


def _names(files: Iterable[RowFile]) -> list[str]:
    return [str(file.path) for file in files]


def _by_row(rows: int, share: float) -> NDArray[np.bool_]:
    return _mask(rows, order(rows, seed=0, epoch=_STREAM)[: _count(rows, share)])


def _mask(rows: int, chosen: Iterable[int] | Indices) -> NDArray[np.bool_]:
    mask = np.zeros(rows, dtype=np.bool_)
    mask[chosen if isinstance(chosen, np.ndarray) else list(chosen)] = True
    return mask


def _count(rows: int, share: float) -> int:
    count = max(1, round(share * rows))
    if count >= rows:
        raise DataError(f"data.held_out={share} of {rows} rows leaves none to train on; give more rows or an eval_file")
    return count


def _apart(records: list[Record], chosen: NDArray[np.bool_]) -> Sides:
    train = [record for record, held in zip(records, chosen, strict=True) if not held]
    return train, [record for record, held in zip(records, chosen, strict=True) if held]


def _by_group(values: Sequence[Any], share: float) -> set[int]:
    """Rows of equal values stay together: groups are taken, in a fixed order, while they bring the number of rows
    nearer to the share."""
    count = _count(len(values), share)
    members: dict[Any, list[int]] = {}
    for index, value in enumerate(values):
        members.setdefault(value, []).append(index)
    groups = list(members.values())
    if len(groups) < 2:
        raise DataError("data.split: all rows are of one group, so that none can be held out; split by row")
    chosen: set[int] = set()
    for place in order(len(groups), seed=0, epoch=_STREAM).tolist():
        grown = len(chosen) + len(groups[place])
        if grown < len(values) and (abs(grown - count) < abs(len(chosen) - count)):
            chosen.update(groups[place])
    if not chosen:
        # Every group is larger than twice the share: the smallest is nearest to it.
        smallest = min(len(group) for group in groups)
        chosen.update(next(group for group in groups if len(group) == smallest))
    return chosen


def _by_label(values: Sequence[Any], share: float) -> set[int]:
    """Each label has about the share of its rows held out, and at least one row left to train (largest remainder)."""
    count = _count(len(values), share)
    members: dict[Any, list[int]] = {}
    # In a fixed random order, so that the first rows of each label are a random choice of them.
    for index in order(len(values), seed=0, epoch=_STREAM).tolist():
        members.setdefault(values[index], []).append(index)
    groups = list(members.values())
    quotas = [min(math.floor(share * len(rows)), len(rows) - 1) for rows in groups]
    remainders = sorted(range(len(groups)), key=lambda place: quotas[place] - share * len(groups[place]))
    for place in remainders:
        if sum(quotas) < count and quotas[place] < len(groups[place]) - 1:
            quotas[place] += 1
    if not sum(quotas):
        raise DataError("data.split by label: no label has two rows, so that none can be held out; split by row")
    return {index for rows, quota in zip(groups, quotas, strict=True) for index in rows[:quota]}


def _by_time(records: Records, values: Sequence[str], data: DataSection) -> set[int]:
    """The latest rows are held out; rows of one moment stay on one side."""
    count = _count(len(records), data.held_out)
    times = _times(records, values, data.split.column or "")
    border = sorted(times)[len(times) - count]
    chosen = {index for index, time in enumerate(times) if time >= border}
    if len(chosen) == len(records):
        raise DataError(
            f"data.split by time: {data.split.column!r} is the same in too many rows to hold out {data.held_out} of "
            "them; split by row"
        )
    return chosen


def _times(records: Records, values: Sequence[str], column: str) -> list[float]:
    times = []
    problems = []
    for record, value in zip(records, values, strict=True):
        time = _time(value)
        if time is None:
            problems.append(f"{record.where}: {value!r}")
        else:
            times.append(time)
    if problems:
        raise DataError(
            f"data.split by time: {column!r} is neither a number nor a date (ISO 8601) in {len(problems)} rows:\n"
            f"{listing(problems)}"
        )
    return times


def _time(text: str) -> float | None:
    """Seconds since 1970, or the number itself; None for what is neither a date nor a number."""
    try:
        number = float(text)
    except ValueError:
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            return None
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    return number if math.isfinite(number) else None


def _column(records: Records, data: DataSection) -> list[str]:
    """The value of the column in each record's row, as text; the files are read once more for it."""
    name = data.split.column
    rows = chain.from_iterable(iterate_rows(file.path) for file in training_files(data))
    values: list[str] = []
    missing: list[str] = []
    for record in records:
        # Records are rows of the files, in their order; some rows are none.
        value = next((row for where, row in rows if where == record.where), None)
        found = value.get(name) if isinstance(value, dict) else None
        if found is None:
            missing.append(record.where)
        values.append(str(found))
    if missing:
        raise DataError(
            f"data.split.column: {len(missing)} of {len(values)} rows have no {name!r}, by which they are to be "
            f"split:\n{listing(missing)}"
        )
    return values


def _answer(record: Record) -> str:
    """The last assistant turn, by which rows are told apart where no column is named."""
    if record.text is not None:
        raise DataError(f"{record.where}: plain text has no label; name a column by data.split.column")
    return next(str(turn.get("content") or "") for turn in reversed(record.messages) if turn["role"] == "assistant")


def _near_duplicates(records: Records) -> list[int]:
    """For each record the first of those that are nearly the same."""
    with Spill() as spill:
        found = []
        for record in records:
            hashes = shingles_of(record)
            found.append(bands(hashes))
            spill.append(hashes, np.array([len(hashes)]))
        return [int(root) for root in clusters(np.stack(found), spill.read, SIMILARITY)]
