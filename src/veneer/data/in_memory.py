"""Rows that a caller has in memory become a file, which is read, digested and found again like any other."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from veneer.counting import count_of
from veneer.data.arrow_rows import nulls_noted, without_nulls
from veneer.data.json_values import BadRow, check_value, half_character
from veneer.data.plain_json import NOT_JSON, as_json
from veneer.errors import DataError, OutputError
from veneer.events import Note, Subscriber, ignore
from veneer.io.files import make_output_folder, write_text
from veneer.strict_json import to_text

RowSource = str | Path | Iterable[Mapping[str, Any]]
"""Rows: a file, or dictionaries as a line of JSONL has them (a list, any iterable, or a `datasets.Dataset`)."""
_PARQUET = "; write the table as Parquet, and name that file"
_TABLES = {"pandas": '; give frame.to_dict("records")', "polars": _PARQUET, "pyarrow": _PARQUET}
"""What makes rows of the tables of other libraries, which go through their columns."""


def rows_file(source: RowSource, file: Path, emit: Subscriber = ignore) -> Path:
    """The file of some rows: the one that is named, or `file`, to which rows in memory are written as JSONL.

    Args:
        source: the rows. Those of a `datasets.Dataset` are read as Parquet is: a null is an absent key.
        file: where rows in memory go. A file of the same rows stays as it is.
        emit: told of rows with nulls that were taken out, and of values that JSON has no form for.

    Raises:
        DataError: there is no row, or one is no dictionary or has keys or characters that JSON has no form for.
        OutputError: `file` holds other rows, or cannot be written.
    """
    if isinstance(source, str | Path):
        return Path(source)
    notes: list[str] = []
    rows = _of_arrow(source, notes) if _is_of(source, "datasets") else source
    text = "".join(_line(number, row, source) for number, row in enumerate(rows, start=1))
    if not text:
        raise DataError("the rows that were given are none; give at least one dictionary")
    for note in (*notes, *_without_form(text)):
        emit(Note(message=note))
    if file.is_file():
        if file.read_text(encoding="utf-8") == text:
            return file
        raise OutputError(
            f"{file} holds other rows than were given; give another output folder, or delete this file if no run is to "
            "be gone on with or made again there"
        )
    make_output_folder(file.parent)
    write_text(file, text)
    return file


@contextmanager
def withdrawn_until(needed: Callable[[], bool], files: Sequence[Path]) -> Iterator[None]:
    """Delete files that the block has made, where an error ends it before they were needed. What was there before
    stays: it may be somebody's rows.

    Args:
        needed: whether something reads them by now.
        files: where rows in memory go.
    """
    new, ended = [file for file in files if not file.exists()], False
    try:
        yield
        ended = True
    finally:
        for file in new if not (ended or needed()) else ():
            with suppress(OSError):
                file.unlink()


def _of_arrow(rows: Iterable[Mapping[str, Any]], notes: list[str]) -> Iterator[Mapping[str, Any]]:
    """Rows of `datasets`, which are Arrow's: each of its objects has the keys of all rows, with null where a row has
    none. What is to be said of it is in `notes` once they are read."""
    nulls = 0
    for row in rows:
        left, removed = without_nulls(dict(row))
        nulls += removed
        yield left
    notes += nulls_noted("the rows that were given", nulls)


def _is_of(source: object, library: str) -> bool:
    """Whether a library has made an object's class, or one that it is derived from. None is imported for it."""
    return any(kind.__module__.partition(".")[0] == library for kind in type(source).__mro__)


def _line(number: int, row: object, source: object) -> str:
    if not isinstance(row, Mapping):
        remedy = next((remedy for library, remedy in _TABLES.items() if _is_of(source, library)), "")
        raise DataError(f"row {number} is of type {type(row).__name__}; rows are dictionaries{remedy}")
    try:
        text = to_text(as_json(row), ensure_ascii=False) + "\n"
        if half_character(text) is not None:
            check_value(json.loads(text))  # names the place
        return text
    except (TypeError, ValueError, OutputError, BadRow) as error:
        raise DataError(f"row {number} cannot be written as JSON: {error}") from error
    except RecursionError as error:
        raise DataError(f"row {number} cannot be written as JSON: it is nested too deeply, or within itself") from error


def _without_form(text: str) -> list[str]:
    """What is to be said of values in lines of JSON that it has no form for."""
    sign = f'{{"{NOT_JSON}": "'
    found = [number for number, line in enumerate(text.split("\n"), start=1) if sign in line] if sign in text else []
    if not found:
        return []
    return [
        f"the rows that were given: {count_of(len(found), 'row')} with a value that JSON has no form for, as NaN is "
        f'(first: row {found[0]}); in its place stands {{"{NOT_JSON}": …}}'
    ]
