"""Rows in memory are written to a file, which is read, digested and found again like any other."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from veneer.data.files.arrow_rows import nulls_noted, without_nulls
from veneer.data.files.given_names import GIVEN_ROWS, given_file
from veneer.data.files.json_values import BadRow, check_value, half_character
from veneer.data.files.plain_json import NOT_JSON_KEY, as_json
from veneer.errors import DataError, OutputError
from veneer.events import Note, Subscriber
from veneer.io.files import atomic_file, make_output_folder
from veneer.io.leftovers import held
from veneer.text.counting import count_of
from veneer.text.strict_json import to_text

RowSource = str | Path | Iterable[Mapping[str, Any]]
"""Rows: a file, or dictionaries like the lines of JSONL (a list, any iterable, or a `datasets.Dataset`)."""
_FORMLESS = f'{{"{NOT_JSON_KEY}": "'
"""The place of a value in a line that JSON cannot express."""
_PARQUET = "; write the table as Parquet, and name that file"
_TABLES = {"pandas": '; give frame.to_dict("records")', "polars": _PARQUET, "pyarrow": _PARQUET}
"""How to make rows of other libraries' tables, which iterate over their columns."""


def rows_file(source: RowSource, file: Path, emit: Subscriber) -> Path:
    """The file with some rows: the named one, or `file`, to which rows in memory are written as JSONL.

    Args:
        source: the rows. Those of a `datasets.Dataset` are read like Parquet: a null is an absent key.
        file: the file for rows in memory. If it already has the same rows, it is not changed.
        emit: receives notes about nulls that were removed, and about values that JSON cannot express.

    Raises:
        DataError: there is no row, or a row is not a dictionary or has keys or characters that JSON cannot express.
        OutputError: `file` contains other rows, or cannot be written.
    """
    if isinstance(source, str | Path):
        return Path(source)
    notes: list[str] = []
    lines = _lines(source, notes)
    first = next(lines, None)
    if first is None:
        raise DataError("no rows were given; give at least one dictionary")
    lines = chain([first], lines)
    if file.is_file():
        if not _holds(file, lines):
            raise OutputError(
                f"{file} contains other rows than those given; give another output folder, or delete this file if no "
                "run there is to be resumed or reproduced"
            )
    else:
        make_output_folder(file.parent)
        # Row by row: a stream may be larger than the memory.
        with atomic_file(file) as partial, held(partial), partial.open("w", encoding="utf-8") as out:
            out.writelines(lines)
    for note in notes:
        emit(Note(message=note))
    return file


@contextmanager
def file_for_now(source: RowSource, emit: Subscriber, name: str = GIVEN_ROWS) -> Iterator[str]:
    """The file with some rows for as long as the block lasts: the named one, or a temporary one for rows in memory.

    Args:
        source, emit: see `rows_file`.
        name: what messages call rows in memory, GIVEN_ROWS or GIVEN_EVAL_ROWS.

    Raises:
        DataError, OutputError: see `rows_file`.
    """
    with TemporaryDirectory() as scratch:
        yield str(rows_file(source, given_file(Path(scratch), name), emit))


def _holds(file: Path, lines: Iterable[str]) -> bool:
    """Whether a file's text equals these lines; nothing is read after the first that differs."""
    with file.open(encoding="utf-8", errors="surrogateescape") as there:
        return all(there.readline(len(line)) == line for line in lines) and not there.read(1)


@contextmanager
def withdrawn_until(needed: Callable[[], bool], files: Sequence[Path]) -> Iterator[None]:
    """If an error ends the block before its files are needed, delete those that it has made. Files that existed before
    are kept: they may be somebody's rows.

    Args:
        needed: whether the files are needed by now.
        files: the files for rows in memory.
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
    """The line of each row. After the last row, `notes` has the notes about the rows.

    Raises:
        DataError: a row is not a dictionary, has a value that JSON cannot express, or cannot be read.
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
            f"the given rows: {count_of(len(formless), 'row')} with a value that JSON cannot express, such as NaN "
            f'(first: row {formless[0]}); it is replaced by {{"{NOT_JSON_KEY}": …}}'
        )


def _readable(rows: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """Rows whose system errors are reported as errors of the rows, not of the file that they are written to."""
    try:
        yield from rows
    except OSError as error:
        raise DataError(f"the given rows cannot be read: {error}") from error


def _of_arrow(source: Iterable[Mapping[str, Any]], notes: list[str]) -> Iterator[Mapping[str, Any]]:
    """Rows of `datasets`, which come from Arrow: each of its objects has the keys of all rows, with null where a row
    does not have a key. After the last row, `notes` has the notes about this."""
    nulls = 0
    for row in _plain(source):
        if not isinstance(row, Mapping):
            yield row
            continue
        left, removed = without_nulls(dict(row))
        nulls += removed
        yield left
    notes += nulls_noted("the given rows", nulls)


def _plain(source: Iterable[Mapping[str, Any]]) -> Iterable[Mapping[str, Any]]:
    """A `datasets` data set without a format that gives anything but dictionaries of values (a table, a frame,
    tensors). A transform of the user's own is kept, since it makes the rows that are meant."""
    import datasets

    plain = source
    if isinstance(source, datasets.IterableDataset):
        plain = source.with_format(None)
    elif isinstance(source, datasets.Dataset) and source.format["type"] != "custom":
        kept = {name: source.format[name] for name in ("columns", "output_all_columns")}
        plain = source.with_format(None, **kept)
    return plain


def _is_of(source: object, library: str) -> bool:
    """Whether the class of an object, or one of its base classes, is from a library. The library is not imported."""
    return any(kind.__module__.partition(".")[0] == library for kind in type(source).__mro__)


def _line(number: int, row: object, source: object) -> str:
    if not isinstance(row, Mapping):
        remedy = next((remedy for library, remedy in _TABLES.items() if _is_of(source, library)), "")
        raise DataError(f"row {number} is of type {type(row).__name__}; rows are dictionaries{remedy}")
    try:
        text = to_text(as_json(row), ensure_ascii=False) + "\n"
        if half_character(text) is not None:
            check_value(json.loads(text))  # its error names the place
        return text
    except (TypeError, ValueError, OutputError, BadRow) as error:
        raise DataError(f"row {number} cannot be written as JSON: {error}") from error
    except RecursionError as error:
        raise DataError(
            f"row {number} cannot be written as JSON: it is nested too deeply or contains itself"
        ) from error
