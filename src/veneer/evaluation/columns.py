"""The column names of a file that is evaluated or asked: those of the user, or those of the adapter's run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from veneer.config import RunConfig
from veneer.config.data import refuse_shared
from veneer.data.asked_rows import asked_row
from veneer.data.files.json_values import BadRow
from veneer.data.files.readers import iterate_rows
from veneer.data.forms.formats import given_keys, to_record
from veneer.data.forms.labels import LABEL_KEYS, certain_label, read_label
from veneer.data.forms.preference import to_pair
from veneer.enums import Column, choice

Columns = Mapping[Column, str]
"""Maps veneer's name of a column or key to the file's name, if they differ."""


def named_columns(given: Mapping[Column, str] | Mapping[str, str] | None) -> dict[Column, str]:
    """The columns that were given to a function of the API, by `Column`s or their names.

    Raises:
        ConfigError: a name is unknown, or two names mean the same column.
    """
    columns = {choice(Column, name, "columns"): theirs for name, theirs in (given or {}).items()}
    refuse_shared(columns)
    return columns


def record_columns(file: str, given: Columns, run: RunConfig | None) -> Columns:
    """The columns for reading the rows of a file as records.

    Args:
        file: the file of rows.
        given: the columns that the user named; if there are any, they decide.
        run: the run that made the adapter. Its `data.columns` are used as far as the file has them. If they do not fit
            the first row that can be read, that row's own names decide.
    """
    return given or _of_run(file, run, lambda row, where, columns: to_record(row, where, columns=columns))


def pair_columns(file: str, given: Columns, run: RunConfig | None) -> Columns:
    """The columns for reading the rows of a file as pairs; arguments as for `record_columns`."""
    return given or _of_run(file, run, lambda row, where, columns: to_pair(row, where, columns=columns))


def question_columns(file: str, given: Columns, run: RunConfig | None) -> Columns:
    """The columns for asking the rows of a file, with or without answers; arguments as for `record_columns`."""
    return given or _of_run(file, run, lambda row, where, columns: to_record(asked_row(row, columns), where))


def undesirable(rows: Sequence[Any], columns: Columns, *, certain: bool) -> int:
    """The number of rows that are labelled as undesirable (`veneer.data.forms.labels`).

    Args:
        rows: the rows as the file has them.
        columns: maps veneer's name of a column or key to the file's name, if they differ.
        certain: whether a label counts only if it cannot be a class (`veneer.data.forms.labels.certain_label`).
    """
    labels = [_labels(row, columns, certain) for row in rows if isinstance(row, dict)]
    return sum(found == [False] for found in labels)


def _labels(row: dict[str, Any], columns: Columns, certain: bool) -> list[bool | None]:
    if certain and certain_label(given_keys(row, columns)) is None:
        return []
    names = (columns[Column.LABEL],) if Column.LABEL in columns else LABEL_KEYS
    return [read_label(row[name]) for name in names if name in row]


def _of_run(file: str, run: RunConfig | None, read: Callable[[Any, str, Columns], object]) -> Columns:
    mapped = {} if run is None else run.data.columns
    if not mapped:
        return mapped
    ways: tuple[Columns, ...] = (mapped, {})
    for found in zip(*(iterate_rows(file, columns=columns) for columns in ways), strict=True):
        for columns, (where, row) in zip(ways, found, strict=True):
            if not isinstance(row, BadRow) and _readable(row, where, columns, read):
                return columns
    return mapped


def _readable(row: Any, where: str, columns: Columns, read: Callable[[Any, str, Columns], object]) -> bool:
    try:
        read(row, where, columns)
    except BadRow:
        return False
    return True
