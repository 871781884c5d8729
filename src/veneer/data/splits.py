"""Keep a share of a file's rows for evaluation: by rows, by group, by label, by time, or near-duplicates on one side.

Which rows are evaluated follows from the rows alone: no seed has a part in it, so that runs of several seeds, or the
points of a sweep, are evaluated on the same rows. Both sides keep the order of the file.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

from veneer.config import DataSection
from veneer.data.batches import order
from veneer.data.lint.clusters import clusters
from veneer.data.lint.shingles import SIMILARITY, bands, shingles_of
from veneer.data.readers import iterate_rows
from veneer.data.records import Record
from veneer.enums import SplitBy
from veneer.errors import DataError, listing

# Another stream than the epochs' orders, which start from 0.
_STREAM = 2**31

Sides = tuple[list[Record], list[Record]]
"""The rows to train, and those to evaluate."""


def split_records(records: list[Record], data: DataSection) -> Sides:
    """Split the rows of `data.file` as `data.held_out` and `data.split` say.

    Raises:
        DataError: one side would have no row, or the column to split by is missing or cannot be read in some rows.
    """
    match data.split.by:
        case SplitBy.ROW:
            return split(records, data.held_out)
        case SplitBy.GROUP:
            return _by_group(records, _column(records, data), data.held_out)
        case SplitBy.LABEL:
            values = [_answer(one) for one in records] if data.split.column is None else _column(records, data)
            return _by_label(records, values, data.held_out)
        case SplitBy.TIME:
            return _by_time(records, _column(records, data), data)
        case SplitBy.NEAR_DUPLICATES:
            return _by_group(records, _near_duplicates(records), data.held_out)


def split(records: list[Record], share: float) -> Sides:
    """Split records into those to train and, `share` of them and at least one, those to evaluate.

    Which ones are evaluated follows from the number of records alone.

    Raises:
        DataError: there are too few records to have some on both sides.
    """
    count = _count(len(records), share)
    return _apart(records, set(order(len(records), seed=0, epoch=_STREAM)[:count].tolist()))


def _count(rows: int, share: float) -> int:
    count = max(1, round(share * rows))
    if count >= rows:
        raise DataError(f"data.held_out={share} of {rows} rows leaves none to train on; give more rows or an eval_file")
    return count


def _apart(records: list[Record], chosen: set[int]) -> Sides:
    train = [record for index, record in enumerate(records) if index not in chosen]
    return train, [record for index, record in enumerate(records) if index in chosen]


def _by_group(records: list[Record], values: Sequence[Any], share: float) -> Sides:
    """Rows of equal values stay together: groups are taken, in a fixed order, while they bring the number of rows
    nearer to the share."""
    count = _count(len(records), share)
    members: dict[Any, list[int]] = {}
    for index, value in enumerate(values):
        members.setdefault(value, []).append(index)
    groups = list(members.values())
    if len(groups) < 2:
        raise DataError("data.split: all rows are of one group, so that none can be held out; split by row")
    chosen: set[int] = set()
    for place in order(len(groups), seed=0, epoch=_STREAM).tolist():
        grown = len(chosen) + len(groups[place])
        if grown < len(records) and (abs(grown - count) < abs(len(chosen) - count)):
            chosen.update(groups[place])
    if not chosen:
        # Every group is larger than twice the share: the smallest is nearest to it.
        smallest = min(len(group) for group in groups)
        chosen.update(next(group for group in groups if len(group) == smallest))
    return _apart(records, chosen)


def _by_label(records: list[Record], values: Sequence[Any], share: float) -> Sides:
    """Each label has about the share of its rows held out, and at least one row left to train (largest remainder)."""
    count = _count(len(records), share)
    members: dict[Any, list[int]] = {}
    # In a fixed random order, so that the first rows of each label are a random choice of them.
    for index in order(len(records), seed=0, epoch=_STREAM).tolist():
        members.setdefault(values[index], []).append(index)
    groups = list(members.values())
    quotas = [min(math.floor(share * len(rows)), len(rows) - 1) for rows in groups]
    remainders = sorted(range(len(groups)), key=lambda place: quotas[place] - share * len(groups[place]))
    for place in remainders:
        if sum(quotas) < count and quotas[place] < len(groups[place]) - 1:
            quotas[place] += 1
    if not sum(quotas):
        raise DataError("data.split by label: no label has two rows, so that none can be held out; split by row")
    return _apart(records, {index for rows, quota in zip(groups, quotas, strict=True) for index in rows[:quota]})


def _by_time(records: list[Record], values: Sequence[str], data: DataSection) -> Sides:
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
    return _apart(records, chosen)


def _times(records: list[Record], values: Sequence[str], column: str) -> list[float]:
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


def _column(records: list[Record], data: DataSection) -> list[str]:
    """The value of the column in each record's row, as text; the file is read once more for it."""
    name = data.split.column
    wanted = {record.where for record in records}
    found = {
        where: row[name]
        for where, row in iterate_rows(data.file)
        if where in wanted and isinstance(row, dict) and row.get(name) is not None
    }
    missing = [record.where for record in records if record.where not in found]
    if missing:
        raise DataError(
            f"data.split.column: {len(missing)} of {len(records)} rows have no {name!r}, by which they are to be "
            f"split:\n{listing(missing)}"
        )
    return [str(found[record.where]) for record in records]


def _answer(record: Record) -> str:
    """The last assistant turn, by which rows are told apart where no column is named."""
    if record.text is not None:
        raise DataError(f"{record.where}: plain text has no label; name a column by data.split.column")
    return next(str(turn.get("content") or "") for turn in reversed(record.messages) if turn["role"] == "assistant")


def _near_duplicates(records: list[Record]) -> list[int]:
    """For each record the first of those that are nearly the same."""
    sets = [shingles_of(record) for record in records]
    roots = clusters(np.stack([bands(one) for one in sets]), lambda row: sets[row], SIMILARITY)
    return [int(root) for root in roots]
