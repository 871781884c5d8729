"""Data files to rows: JSON Lines, JSON, CSV and Parquet, in UTF-8, with or without a BOM and with either line end.

A reader yields (where, row). A row that cannot be parsed is yielded as the BadRow that says why; a file that cannot be
read on is a DataError.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain, islice
from pathlib import Path
from threading import RLock
from typing import Any

from veneer.data.files.arrow_rows import nulls_noted, python_rows, refuse_repeated, without_nulls
from veneer.data.files.file_starts import text_start
from veneer.data.files.json_values import (
    MAX_DEPTH,
    BadRow,
    check_value,
    decode_row,
    kind,
    parse_row,
    unusable,
    unusable_at,
)
from veneer.enums import Column
from veneer.errors import DataError
from veneer.io.places import look, missing

SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")
_JSON_COLUMNS = (Column.MESSAGES, Column.CONVERSATIONS, Column.TOOLS)
_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars"}
_MARK_TOLD = re.compile(r'"?sep=(?P<mark>[,;\t|])"?[,;\t|]*\s*', re.IGNORECASE)
"""The line by which Excel is told what separates columns."""
_LARGEST_CELL = 2**31 - 1
"""Characters of a cell: the most that the csv module takes on every system."""


def iterate_rows(
    path: Path | str, notes: list[str] | None = None, columns: Mapping[Column, str] | None = None
) -> Iterator[tuple[str, Any]]:
    """Read the rows of a file one by one, as they are asked for: each as the file has it, with where it stands.

    Args:
        path: the file; its suffix says what it holds.
        notes: gets a sentence about whatever of the file could not be read exactly, once the rows are read.
        columns: veneer's name of a column to the file's (`data.columns`), which says what cells of CSV hold JSON. Rows
            have the file's names all the same.

    Raises:
        DataError: the file is missing, of an unknown kind, or broken beyond one row.
    """
    path = Path(path)
    look(path, DataError)
    if path.is_dir():
        raise DataError(f"{path} is a folder; name one data file ({', '.join(SUFFIXES)})")
    if not path.is_file():
        raise DataError(f"{missing(path)}; check the path of the data file")
    try:
        match path.suffix.lower():
            case ".jsonl":
                yield from _read_jsonl(path)
            case ".json":
                yield from _read_json(path)
            case ".csv":
                yield from _read_csv(path, [] if notes is None else notes, _json_columns(columns))
            case ".parquet":
                yield from _read_parquet(path, [] if notes is None else notes)
            case suffix:
                raise DataError(f"{path} ends in {suffix!r}; veneer reads {', '.join(SUFFIXES)}")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error


def count_lines(files: Sequence[str]) -> int | None:
    """The number of lines of files of a row a line; None where a file is of another kind, or is not there."""
    paths = [Path(file) for file in files]
    if not all(path.suffix.lower() == ".jsonl" and path.is_file() for path in paths):
        return None
    return sum(map(_lines, paths))


def _lines(path: Path) -> int:
    with path.open("rb", buffering=0) as file:
        return sum(block.count(b"\n") for block in iter(partial(file.read, 1 << 20), b""))


# ---------------------------------------------------------------- JSON


def _read_jsonl(path: Path) -> Iterator[tuple[str, Any]]:
    begun = False
    with path.open("rb") as handle:
        for number, raw in enumerate(handle, start=1):
            if number == 1:
                raw = text_start(path, raw)
            if not raw.strip():
                continue
            row = parse_line(raw)
            if not begun:
                _refuse_json(path, number, raw.strip(), row)
                begun = True
            yield f"{path}:{number}", row


def _refuse_json(path: Path, number: int, line: bytes, row: Any) -> None:
    """Refuse a file of JSON under the name of JSON Lines, of which its first line that is not blank tells.

    Raises:
        DataError: a list begins there that goes on over several lines or is all that the file has, or such an object.
    """
    begins = line == b"[" or (isinstance(row, BadRow) and re.match(rb"\[\s*\{", line))
    if begins or (isinstance(row, list) and _is_last_line(path, number)):
        raise DataError(f"{path}:{number}: a JSON array begins here; JSON Lines has an object a line: name it .json")
    if line == b"{":
        raise DataError(
            f"{path}:{number}: an object goes on over several lines; JSON Lines has an object a line: write each on "
            "one, or all as a list, [{...}, {...}], into a file that is named .json"
        )


def _is_last_line(path: Path, number: int) -> bool:
    """Whether nothing but white space stands behind a line."""
    with path.open("rb") as handle:
        return not any(line.strip() for line in islice(handle, number, None))


def parse_line(raw: bytes) -> Any:
    """The row in a line of JSON Lines, or the BadRow that says why there is none."""
    try:
        line = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        return BadRow(
            f"invalid UTF-8 at byte {error.start} of the line (0x{raw[error.start]:02x}); save the file as UTF-8"
        )
    return _parsed(line)


def _parsed(text: str) -> Any:
    try:
        return parse_row(text)
    except BadRow as problem:
        return problem


def _checked(row: Any) -> Any:
    """The row, or the BadRow that says why it cannot be used."""
    try:
        check_value(row)
    except BadRow as problem:
        return problem
    return row


def _read_json(path: Path) -> Iterator[tuple[str, Any]]:
    raw = text_start(path, path.read_bytes())
    try:
        content = decode_row(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path}:{line}: invalid UTF-8 at byte {error.start} of the file; save the file as UTF-8"
        ) from error
    except json.JSONDecodeError as error:
        hint = "; one object a line is JSON Lines: name the file .jsonl" if error.msg == "Extra data" else ""
        raise DataError(
            f"{path}:{error.lineno}: invalid JSON: {error.msg.removesuffix(' at')} at column {error.colno}{hint}"
        ) from error
    except BadRow as problem:
        raise DataError(f"{path}: {problem}") from problem
    except RecursionError as error:
        raise DataError(f"{path}: invalid JSON: nested more than {MAX_DEPTH} levels deep") from error
    except ValueError as error:
        raise DataError(f"{path}: invalid JSON: {error}") from error
    rows = content.get("data") if isinstance(content, dict) else content
    if not isinstance(rows, list):
        raise DataError(f'{path}: holds neither a list of objects nor {{"data": [...]}}, but {kind(content)}')
    for number, row in enumerate(rows, start=1):
        yield f"{path}:{number}", _checked(row)


# ---------------------------------------------------------------- CSV


def _json_columns(columns: Mapping[Column, str] | None) -> tuple[str, ...]:
    """What the columns whose cells hold JSON are called in the file. If any are mapped, others are only texts."""
    if not columns:
        return tuple(column.value for column in _JSON_COLUMNS)
    return tuple(dict.fromkeys(columns[column] for column in _JSON_COLUMNS if column in columns))


def _read_csv(path: Path, notes: list[str], parsed: Sequence[str]) -> Iterator[tuple[str, Any]]:
    with _LARGE_CELLS.allowed(), path.open("rb") as handle:
        yield from _csv_rows(path, _csv_lines(handle, path), notes, parsed)


class _LargeCells:
    """The csv module's limit on a cell, which is one for the process: it is lifted while any file is being read, and
    put back once none is. Files are read side by side, in threads or by turns."""

    def __init__(self) -> None:
        self._lock = RLock()  # what collects garbage may end a reader within
        self._reading = 0
        self._limit = 0

    @contextmanager
    def allowed(self) -> Iterator[None]:
        """Let cells be of any size within the block."""
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


def _csv_lines(lines: Iterable[bytes], path: Path) -> Iterator[str]:
    for number, raw in enumerate(lines):
        if number == 0:
            raw = text_start(path, raw)
        # Bytes that are not UTF-8 become lone surrogates, which `check_value` reports with their row and column.
        yield raw.decode("utf-8", errors="surrogateescape")


def _csv_rows(path: Path, lines: Iterator[str], notes: list[str], parsed: Sequence[str]) -> Iterator[tuple[str, Any]]:
    before, first = _head(path, lines)
    # Strict: a quote that is never closed would else take the rest of the file into one cell, in silence.
    reader = csv.reader(chain([first], lines), strict=True)
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
            if any(_looks_like_rows(cell, len(header)) for cell in cells):
                swallowing.append(where)
            if any(_quoted_behind_space(cell) for cell in cells):
                behind.append(where)
            yield where, _row(header, cells, parsed)
    except csv.Error as error:
        raise DataError(f"{path}:{start}: {_csv_problem(str(error), start, before + reader.line_num)}") from error
    if empty:
        notes.append(f"{path}: rows of empty cells alone, which are left out: {empty:,}")
    if behind:
        notes.append(
            f"{path}: rows with a cell whose quotes stand behind a space, and so are part of its text: {len(behind):,} "
            f"(first: {behind[0]}); if they are to enclose it, write no space behind the comma"
        )
    if swallowing:
        notes.append(
            f"{path}: rows with a cell over several lines that each read as a row of this file: {len(swallowing):,} "
            f"(first: {swallowing[0]}); if they are rows, a quote is missing there"
        )


def _head(path: Path, lines: Iterator[str]) -> tuple[int, str]:
    """The first line that names columns, and the number of lines before it: blank ones, and the `sep=,` of Excel.

    Raises:
        DataError: it names several columns by another mark than commas, or `sep=` does.
    """
    for number, line in enumerate(lines):
        told = _MARK_TOLD.fullmatch(line)
        mark = told["mark"] if told else _other_mark(line)
        if mark in _SEPARATORS:
            separated = f"the columns are separated by {_SEPARATORS[mark]}"
            raise DataError(f"{path}:{number + 1}: {separated}; veneer reads commas: save it so")
        if told is None and line.strip(", \t\r\n"):
            return number, line
    return 0, ""


def _other_mark(line: str) -> str:
    """What separates the columns that a line names, where commas do not and another mark does; else nothing."""
    several = (mark for mark in (",", *_SEPARATORS) if len(_cells(line, mark)) > 1)
    return next(several, "").strip(",")


def _cells(line: str, mark: str) -> list[str]:
    """The cells of a line; none where it is no row by itself."""
    try:
        return next(csv.reader([line], delimiter=mark, strict=True), [])
    except csv.Error:
        return []


def _quoted_behind_space(cell: str) -> bool:
    """Whether a cell is a text in quotes but for the spaces before them, as people write rows by hand."""
    text = cell.strip()
    return cell[:1].isspace() and len(text) > 1 and text[0] == text[-1] == '"'


def _looks_like_rows(cell: str, columns: int) -> bool:
    """Whether every line of a cell behind its first one has a cell for each of several columns. One quote too few at
    the beginning of a cell, and another at the end of a later row, make one cell of all that is between them."""
    if columns < 2 or "\n" not in cell:
        return False
    following = [line for line in cell.splitlines()[1:] if line]
    return bool(following) and all(len(_cells(line, ",")) == columns for line in following)


def _csv_problem(reason: str, start: int, line: int) -> str:
    rule = 'a quote inside a quoted cell is written twice ("")'
    if "unexpected end" in reason:
        return f"this row opens a quote that is not closed up to the end of the file; close it ({rule})"
    rows = f"the row in line {start}" if line == start else f"the row in lines {start} to {line}"
    if "new-line" in reason:
        return f"{rows} holds a carriage return that ends no line; quote its cell, or save the file with LF or CRLF"
    return f"{rows} is no valid CSV: {reason}; a quote may be missing ({rule})"


def _header(where: str, cells: list[str]) -> list[str]:
    header = [name.strip() for name in cells]
    for name in header:
        bad = unusable_at(name)
        if bad is not None:
            raise DataError(f"{where}: {unusable(name, bad, 'a column name')}")
    # Spreadsheets save empty columns where there was something once.
    named = [name for name in header if name] if header.count("") > 1 else header
    if len(set(named)) != len(named):
        raise DataError(f"{where}: a column name is repeated: {', '.join(map(repr, named))}")
    return header


def _row(header: Sequence[str], cells: Sequence[str], parsed: Sequence[str]) -> Any:
    """The cells by the names of their columns, or the BadRow that says why they are no row. Of several columns without
    a name the empty cells are left out."""
    if len(cells) != len(header):
        return BadRow(f"{len(cells)} cells, but the header names {len(header)} columns")
    row = dict(zip(header, cells, strict=True))
    if header.count("") > 1:
        del row[""]
        filled = [place for place, (name, cell) in enumerate(zip(header, cells, strict=True), 1) if cell and not name]
        if filled:
            return BadRow(f"column {filled[0]} has a cell and no name; name the column in the first line")
    row = _checked(row)
    return row if isinstance(row, BadRow) else _parse_cells(row, parsed)


def _parse_cells(row: dict[str, Any], columns: Sequence[str]) -> Any:
    """A row whose cells in these columns are parsed as JSON; empty ones, which may be empty, are removed."""
    for column in columns:
        cell = row.pop(column, "")
        if cell:
            row[column] = _parsed(cell)
            if isinstance(row[column], BadRow):
                return BadRow(f"column {column!r}: {row[column]}")
    return row


# ---------------------------------------------------------------- Parquet


def _read_parquet(path: Path, notes: list[str]) -> Iterator[tuple[str, Any]]:
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise DataError(f"{path}: Parquet needs pyarrow; pip install 'veneer[parquet]'") from error
    number = nulls = 0
    try:
        with parquet.ParquetFile(path) as file:
            refuse_repeated(path, file.schema_arrow)
            for batch in file.iter_batches(batch_size=1024):
                for row in python_rows(path, batch):
                    number += 1
                    left, removed = without_nulls(row)
                    nulls += removed
                    yield f"{path}:{number}", _checked(left)
    # pyarrow's ArrowInvalid and UnicodeDecodeError are both ValueErrors.
    except (ValueError, NotImplementedError, RecursionError) as error:
        raise DataError(f"{path}: invalid Parquet after row {number}: {error}") from error
    notes += nulls_noted(str(path), nulls)
