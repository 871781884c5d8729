"""Rows that a caller has in memory become a file, which is read, digested and found again like any other."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import Any

from veneer.data.files.arrow_rows import nulls_noted, without_nulls
from veneer.data.files.json_values import BadRow, check_value, half_character
from veneer.data.files.plain_json import NOT_JSON, as_json
from veneer.errors import DataError, OutputError
from veneer.events import Note, Subscriber
from veneer.io.files import atomic_file, make_output_folder
from veneer.io.leftovers import held
from veneer.text.counting import count_of
from veneer.text.strict_json import to_text

RowSource = str | Path | Iterable[Mapping[str, Any]]
"""Rows: a file, or dictionaries as a line of JSONL has them (a list, any iterable, or a `datasets.Dataset`)."""
_FORMLESS = f'{{"{NOT_JSON}": "'
"""Where a value stands in a line that JSON has no form for."""
_PARQUET = "; write the table as Parquet, and name that file"
_TABLES = {"pandas": '; give frame.to_dict("records")', "polars": _PARQUET, "pyarrow": _PARQUET}
"""What makes rows of the tables of other libraries, which go through their columns."""


def rows_file(source: RowSource, file: Path, emit: Subscriber) -> Path:
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
    lines = _lines(source, notes)
    first = next(lines, None)
    if first is None:
        raise DataError("the rows that were given are none; give at least one dictionary")
    lines = chain([first], lines)
    if file.is_file():
        if not _holds(file, lines):
            raise OutputError(
                f"{file} holds other rows than were given; give another output folder, or delete this file if no run "
                "is to be gone on with or made again there"
            )
    else:
        make_output_folder(file.parent)
        # As they come: a stream may be larger than the memory.
        with atomic_file(file) as partial, held(partial), partial.open("w", encoding="utf-8") as out:
            out.writelines(lines)
    for note in notes:
        emit(Note(message=note))
    return file


def _holds(file: Path, lines: Iterable[str]) -> bool:
    """Whether a file's text is these lines, of which none is read behind the first that differs."""
    with file.open(encoding="utf-8", errors="surrogateescape") as there:
        return all(there.readline(len(line)) == line for line in lines) and not there.read(1)


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


def _lines(source: Iterable[Mapping[str, Any]], notes: list[str]) -> Iterator[str]:
    """The line of each row. What is to be said of the rows is in `notes` once they are read.

    Raises:
        DataError: a row is no dictionary, has what JSON has no form for, or cannot be read.
    """
    rows = _of_arrow(source, notes) if _is_of(source, "datasets") else source
    formless: list[int] = []
    for number, row in enumerate(_readable(rows), start=1):
        line = _line(number, row, source)
        if _FORMLESS in line:
            formless.append(number)
        yield line
    if formless:
        notes.append(
            f"the rows that were given: {count_of(len(formless), 'row')} with a value that JSON has no form for, as "
            f'NaN is (first: row {formless[0]}); in its place stands {{"{NOT_JSON}": …}}'
        )


def _readable(rows: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """Rows whose errors of the system are their own, and not those of the file that they go to."""
    try:
        yield from rows
    except OSError as error:
        raise DataError(f"the rows that were given cannot be read: {error}") from error


def _of_arrow(source: Iterable[Mapping[str, Any]], notes: list[str]) -> Iterator[Mapping[str, Any]]:
    """Rows of `datasets`, which are Arrow's: each of its objects has the keys of all rows, with null where a row has
    none. What is to be said of it is in `notes` once they are read."""
    nulls = 0
    for row in _plain(source):
        if not isinstance(row, Mapping):
            yield row
            continue
        left, removed = without_nulls(dict(row))
        nulls += removed
        yield left
    notes += nulls_noted("the rows that were given", nulls)


def _plain(source: Iterable[Mapping[str, Any]]) -> Iterable[Mapping[str, Any]]:
    """A data set of `datasets` without a format that gives other things than dictionaries of values (a table, a frame,
    tensors). A transform of the user's own makes the rows that are meant."""
    import datasets

    plain = source
    if isinstance(source, datasets.IterableDataset):
        plain = source.with_format(None)
    elif isinstance(source, datasets.Dataset) and source.format["type"] != "custom":
        kept = {name: source.format[name] for name in ("columns", "output_all_columns")}
        plain = source.with_format(None, **kept)
    return plain


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
