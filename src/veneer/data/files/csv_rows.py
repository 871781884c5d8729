"""Files of CSV to rows: cells are text, except those of columns that contain JSON.

Columns are separated by commas. In countries where numbers have a decimal comma, Excel writes semicolons instead, and
other programs write tabs or bars. Such a file is read if its first line leaves no doubt: if it has no comma between
names, and only one of the other characters.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from threading import RLock
from typing import Any

from veneer.data.files.file_starts import text_start
from veneer.data.files.json_values import BadRow, checked_row, parsed_row, unusable, unusable_at
from veneer.enums import Column
from veneer.errors import DataError

_JSON_COLUMNS = (Column.MESSAGES, Column.CONVERSATIONS, Column.TOOLS)
_COMMA, _TAB = ",", "\t"
_OTHERS = {";": "semicolons", _TAB: "tabs", "|": "bars"}
"""Characters that may separate columns instead of commas."""
_MARK_TOLD = re.compile(r'"?sep=(?P<mark>[,;\t|])"?[,;\t|]*\s*', re.IGNORECASE)
"""The line that tells Excel which character separates columns."""
_TSV = ".tsv"
"""The suffix of files whose columns are separated by tabs."""
_LARGEST_CELL = 2**31 - 1
"""The most characters of a cell: the largest limit that the csv module accepts on every system."""


class _LargeCells:
    """The csv module's limit on a cell, of which a process has only one. It is lifted while any file is being read, and
    restored afterwards. Several files may be read at the same time, in threads or by turns."""

    def __init__(self) -> None:
        self._lock = RLock()  # garbage collection may end a reader within the lock
        self._reading = 0
        self._limit = 0

    @contextmanager
    def allowed(self) -> Iterator[None]:
        """Allow cells of any size within the block."""
        with self._lock:
            self._reading += 1
            if self._reading == 1:
                self._limit = csv.field_size_limit(_LARGEST_CELL)
        try:
            yield
        finally:
            with self._lock:
                self._reading -= 1
                if not self._reading:
                    csv.field_size_limit(self._limit)


_LARGE_CELLS = _LargeCells()


def read_csv(path: Path, notes: list[str], columns: Mapping[Column, str] | None) -> Iterator[tuple[str, Any]]:
    """Read a file of CSV, whose first line names the columns; see `veneer.data.files.readers.iterate_rows`. The columns
    of a file that ends in `.tsv` are separated by tabs.

    Raises:
        DataError: the file is not CSV in UTF-8, it is not certain what separates its columns, or a quote is missing.
    """
    with _LARGE_CELLS.allowed(), path.open("rb") as handle:
        yield from _csv_rows(path, _csv_lines(handle, path), notes, _json_columns(columns))


def _json_columns(columns: Mapping[Column, str] | None) -> tuple[str, ...]:
    """The names in the file of the columns whose cells contain JSON. If any are mapped, the others are only text."""
    if not columns:
        return tuple(column.value for column in _JSON_COLUMNS)
    return tuple(dict.fromkeys(columns[column] for column in _JSON_COLUMNS if column in columns))


def _csv_lines(lines: Iterable[bytes], path: Path) -> Iterator[str]:
    for number, raw in enumerate(lines):
        if number == 0:
            raw = text_start(path, raw)
        # Bytes that are not UTF-8 become lone surrogates, which `check_value` reports with their row and column.
        yield raw.decode("utf-8", errors="surrogateescape")


def _csv_rows(path: Path, lines: Iterator[str], notes: list[str], parsed: Sequence[str]) -> Iterator[tuple[str, Any]]:
    before, first, mark = _head(path, lines)
    # Strict: otherwise a quote that is never closed would silently take the rest of the file into one cell.
    reader = csv.reader(chain([first], lines), delimiter=mark, strict=True)
    start, empty = before + 1, 0
    swallowing: list[str] = []
    behind: list[str] = []
    try:
        header = _header(f"{path}:{start}", next(reader, []))
        start = before + reader.line_num + 1
        for cells in reader:
            where, start = f"{path}:{start}", before + reader.line_num + 1
            if not any(cells):
                empty += len(cells) > 0  # a blank line has none
                continue
            if any(_looks_like_rows(cell, len(header), mark) for cell in cells):
                swallowing.append(where)
            if any(_quoted_behind_space(cell) for cell in cells):
                behind.append(where)
            yield where, _row(header, cells, parsed)
    except csv.Error as error:
        raise DataError(f"{path}:{start}: {_csv_problem(str(error), start, before + reader.line_num)}") from error
    if mark in _OTHERS and mark != _implied(path):
        notes.append(f"{path}: the columns are separated by {_OTHERS[mark]}")
    if empty:
        notes.append(f"{path}: rows with only empty cells, which are left out: {empty:,}")
    if behind:
        notes.append(
            f"{path}: rows with a cell whose quotes follow a space, and so are part of its text: {len(behind):,} "
            f"(first: {behind[0]}); if the quotes are to enclose the cell, write no space before them"
        )
    if swallowing:
        notes.append(
            f"{path}: rows with a cell of several lines that each look like a row of this file: {len(swallowing):,} "
            f"(first: {swallowing[0]}); if the lines are rows, a quote is missing there"
        )


def _head(path: Path, lines: Iterator[str]) -> tuple[int, str, str]:
    """The number of lines before the names of columns (blank ones, and Excel's `sep=;`), the line of the names, and the
    character that separates them.

    Raises:
        DataError: several characters may separate the names.
    """
    mark = _implied(path)
    for number, line in enumerate(lines):
        told = _MARK_TOLD.fullmatch(line)
        if told is not None:
            mark = told["mark"]
        elif line.strip(", ;|\t\r\n"):
            return number, line, mark or _mark_of(f"{path}:{number + 1}", line)
    return 0, "", _COMMA


def _implied(path: Path) -> str | None:
    """The character that the suffix of a file names: tabs for `.tsv`."""
    return _TAB if path.suffix.lower() == _TSV else None


def _mark_of(where: str, line: str) -> str:
    """The character that separates the names of columns in a line: a comma, unless only another one can do it. One that
    is inside quotes (`a;"b, c"`) does not."""
    split = {mark: _cells(line, mark) for mark in (_COMMA, *_OTHERS)}
    possible = [mark for mark, cells in split.items() if len(cells) > 1 and '"' not in "".join(cells)] or [_COMMA]
    if len(possible) > 1 and _COMMA not in possible:
        marks = " or ".join(_OTHERS[mark] for mark in possible)
        raise DataError(
            f"{where}: the columns may be separated by {marks}; say which in a line before this one (sep=;), or save "
            "the file with commas"
        )
    return possible[0]


def _cells(line: str, mark: str) -> list[str]:
    """The cells of a line; none if it is not a complete row."""
    try:
        return next(csv.reader([line], delimiter=mark, strict=True), [])
    except csv.Error:
        return []


def _quoted_behind_space(cell: str) -> bool:
    """Whether a cell is a quoted text after spaces, as people write rows by hand."""
    text = cell.strip()
    return cell[:1].isspace() and len(text) > 1 and text[0] == text[-1] == '"'


def _looks_like_rows(cell: str, columns: int, mark: str) -> bool:
    """Whether every line of a cell after its first one has a cell for each of several columns. If a quote is missing at
    the beginning of a cell, and another at the end of a later row, everything between them becomes one cell."""
    if columns < 2 or "\n" not in cell:
        return False
    following = [line for line in cell.splitlines()[1:] if line]
    return bool(following) and all(len(_cells(line, mark)) == columns for line in following)


def _csv_problem(reason: str, start: int, line: int) -> str:
    rule = 'a quote inside a quoted cell is written twice ("")'
    if "unexpected end" in reason:
        return f"this row opens a quote that is never closed; close it ({rule})"
    rows = f"the row in line {start}" if line == start else f"the row in lines {start} to {line}"
    if "new-line" in reason:
        return f"{rows} has a carriage return that is not a line end; quote its cell, or save the file with LF or CRLF"
    return f"{rows} is not valid CSV: {reason}; a quote may be missing ({rule})"


def _header(where: str, cells: list[str]) -> list[str]:
    header = [name.strip() for name in cells]
    for name in header:
        bad = unusable_at(name)
        if bad is not None:
            raise DataError(f"{where}: {unusable(name, bad, 'a column name')}")
    # Spreadsheets save empty columns that once had content.
    named = [name for name in header if name] if header.count("") > 1 else header
    if len(set(named)) != len(named):
        raise DataError(f"{where}: a column name is repeated: {', '.join(map(repr, named))}")
    return header


def _row(header: Sequence[str], cells: Sequence[str], parsed: Sequence[str]) -> Any:
    """The cells by the names of their columns, or the BadRow that says why they are not a row. If several columns have
    no name, their empty cells are left out."""
    if len(cells) != len(header):
        return BadRow(f"{len(cells)} cells, but the header names {len(header)} columns")
    row = dict(zip(header, cells, strict=True))
    if header.count("") > 1:
        del row[""]
        filled = [place for place, (name, cell) in enumerate(zip(header, cells, strict=True), 1) if cell and not name]
        if filled:
            return BadRow(f"column {filled[0]} has a cell but no name; name the column in the first line")
    row = checked_row(row)
    return row if isinstance(row, BadRow) else _parse_cells(row, parsed)


def _parse_cells(row: dict[str, Any], columns: Sequence[str]) -> Any:
    """A row whose cells in these columns are parsed as JSON; empty ones are allowed and removed."""
    for column in columns:
        cell = row.pop(column, "")
        if cell:
            row[column] = parsed_row(cell)
            if isinstance(row[column], BadRow):
                return BadRow(f"column {column!r}: {row[column]}")
    return row
