"""Read a data file into records, and name every row that cannot be used.

Files are JSON Lines, JSON, CSV or Parquet, in UTF-8, with or without a BOM and with either kind of line end. What a
row may hold is formats.py's subject. All bad rows of a file are reported in one error.
"""

from __future__ import annotations

import csv
import json
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

from veneer.data.formats import BadRow, Message, Record, kind, to_record
from veneer.errors import DataError, listing

__all__ = ["SUFFIXES", "Message", "Record", "duplicates", "iterate_rows", "overlap", "read_records", "read_rows"]

SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")

_UNUSABLE = re.compile("[\x00\ud800-\udfff]")


def read_records(path: Path | str) -> list[Record]:
    """Read every row of a JSONL, JSON, CSV or Parquet file.

    Raises:
        DataError: the file is missing, of an unknown kind or without rows, or some rows cannot be used; one error
            names all of them (at most 20 shown, with the count of the rest).
    """
    return [record for record, _ in read_rows(path)]


def read_rows(path: Path | str) -> list[tuple[Record, Any]]:
    """Every row of a file as a record, and as the file has it.

    Raises:
        DataError: as `read_records`.
    """
    records: list[tuple[Record, Any]] = []
    problems: list[str] = []
    for where, row in iterate_rows(path):
        try:
            if isinstance(row, BadRow):
                raise row
            records.append((to_record(row, where), row))
        except BadRow as problem:
            problems.append(f"{where}: {problem}")
    if problems:
        total = len(records) + len(problems)
        raise DataError(f"{path}: {len(problems)} of {total} rows cannot be used:\n{listing(problems)}")
    if not records:
        raise DataError(f"{path} holds no rows; a data file needs at least one")
    return records


def iterate_rows(path: Path | str) -> Iterator[tuple[str, Any]]:
    """Every row as the file has it with where it is, read as it is asked for.

    A row that cannot be parsed is given as the BadRow that says why.

    Raises:
        DataError: the file is missing, of an unknown kind, or damaged as a whole.
    """
    path = Path(path)
    if path.is_dir():
        raise DataError(f"{path} is a folder; name one data file ({', '.join(SUFFIXES)})")
    if not path.is_file():
        raise DataError(f"{path} does not exist; check the path of the data file")
    readers = {".jsonl": _read_jsonl, ".json": _read_json, ".csv": _read_csv, ".parquet": _read_parquet}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"{path} ends in {path.suffix!r}; veneer reads {', '.join(SUFFIXES)}")
    try:
        yield from reader(path)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error


def duplicates(records: Sequence[Record]) -> list[tuple[str, str]]:
    """Rows whose content repeats an earlier row's exactly, as (where the repeat is, where it was first)."""
    seen: dict[bytes, str] = {}
    repeats = []
    for record in records:
        first = seen.setdefault(_fingerprint(record), record.where)
        if first is not record.where:
            repeats.append((record.where, first))
    return repeats


def overlap(train: Sequence[Record], heldout: Sequence[Record]) -> list[tuple[str, str]]:
    """Held-out rows that are also training rows, exactly, as (where in `heldout`, where first in `train`)."""
    known: dict[bytes, str] = {}
    for record in train:
        known.setdefault(_fingerprint(record), record.where)
    pairs = [(record.where, known.get(_fingerprint(record))) for record in heldout]
    return [(where, first) for where, first in pairs if first is not None]


def _fingerprint(record: Record) -> bytes:
    content = json.dumps([record.messages, record.tools, record.text, record.train_from], sort_keys=True)
    return blake2b(content.encode(), digest_size=16).digest()


# ---------------------------------------------------------------- files to rows
# A reader yields (where, row); a row that could not even be parsed is yielded as the BadRow that says why.


def _read_jsonl(path: Path) -> Iterator[tuple[str, Any]]:
    with path.open("rb") as handle:
        for number, raw in enumerate(handle, start=1):
            if number == 1:
                raw = _without_bom(raw, path)
            if raw.strip():
                yield f"{path}:{number}", _parse_json_line(raw)


def _parse_json_line(raw: bytes) -> Any:
    try:
        line = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        return BadRow(f"invalid UTF-8 at byte {error.start} of the line (0x{raw[error.start]:02x})")
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        # A raw NUL is what a file truncated by a crash looks like; JSON's own wording would not say so.
        nul = line.find("\x00")
        if nul >= 0:
            return BadRow(f"a NUL character at column {nul + 1}; remove it")
        return BadRow(f"invalid JSON: {error.msg} at column {error.colno}")
    except (ValueError, RecursionError) as error:
        return BadRow(f"invalid JSON: {error}")
    # NUL and lone surrogates reach a parsed row only through \u escapes: most lines need no walk over their strings.
    if "\\u" in line:
        return _checked(row)
    return row


def _read_json(path: Path) -> Iterator[tuple[str, Any]]:
    raw = _without_bom(path.read_bytes(), path)
    try:
        content = json.loads(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}:{line}: invalid UTF-8 at byte {error.start} of the file") from error
    except json.JSONDecodeError as error:
        hint = "; one object a line is JSON Lines: name the file .jsonl" if error.msg == "Extra data" else ""
        raise DataError(f"{path}:{error.lineno}: invalid JSON: {error.msg} at column {error.colno}{hint}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: invalid JSON: {error}") from error
    rows = content.get("data") if isinstance(content, dict) else content
    if not isinstance(rows, list):
        raise DataError(f'{path}: holds neither a list of objects nor {{"data": [...]}}, but {kind(content)}')
    for number, row in enumerate(rows, start=1):
        yield f"{path}:{number}", _checked(row)


def _read_csv(path: Path) -> Iterator[tuple[str, Any]]:
    # The limit on a cell is process-wide in the csv module; it is put back when the file has been read.
    limit = csv.field_size_limit(sys.maxsize)
    try:
        with path.open("rb") as handle:
            yield from _csv_rows(path, _csv_lines(handle, path))
    except csv.Error as error:
        raise DataError(f"{path}: invalid CSV: {error}") from error
    finally:
        csv.field_size_limit(limit)


def _csv_lines(lines: Iterable[bytes], path: Path) -> Iterator[str]:
    for number, raw in enumerate(lines):
        if number == 0:
            raw = _without_bom(raw, path)
        # Bytes that are not UTF-8 become lone surrogates, which `_checked` reports with their row and column.
        yield raw.decode("utf-8", errors="surrogateescape")


def _csv_rows(path: Path, lines: Iterator[str]) -> Iterator[tuple[str, Any]]:
    reader = csv.reader(lines)
    header = [name.strip() for name in next(reader, [])]
    if len(set(header)) != len(header):
        raise DataError(f"{path}:1: a column name is repeated: {', '.join(header)}")
    start = reader.line_num + 1
    for cells in reader:
        where, start = f"{path}:{start}", reader.line_num + 1
        if not any(cells):
            continue
        if len(cells) != len(header):
            yield where, BadRow(f"{len(cells)} cells, but the header names {len(header)} columns")
            continue
        row: Any = _checked(dict(zip(header, cells, strict=True)))
        yield where, row if isinstance(row, BadRow) else _parse_cells(row)


def _parse_cells(row: dict[str, Any]) -> Any:
    """Cells that hold JSON, parsed; empty cells of the columns that may be empty, removed."""
    for column in ("messages", "conversations", "tools"):
        cell = row.pop(column, "")
        if cell:
            try:
                row[column] = json.loads(cell)
            except (ValueError, RecursionError) as error:
                return BadRow(f"column {column!r} is not JSON: {error}")
    # The cells were checked before JSON's escapes were undone.
    return _checked(row)


def _read_parquet(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise DataError(f"{path}: Parquet needs pyarrow; pip install 'veneer[parquet]'") from error
    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1024):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path}:{number}", _checked(_without_nulls(row))
    # pyarrow's ArrowInvalid and UnicodeDecodeError are both ValueErrors.
    except (ValueError, NotImplementedError) as error:
        raise DataError(f"{path}: invalid Parquet after row {number}: {error}") from error


def _without_nulls(value: Any) -> Any:
    """A row without the nulls that Parquet puts where one of its structs lacks another's field."""
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


def _without_bom(start: bytes, path: Path) -> bytes:
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError(f"{path} is UTF-16; save it as UTF-8")
    return start.removeprefix(b"\xef\xbb\xbf")


def _checked(row: Any) -> Any:
    """The row, or a BadRow where one of its strings holds a NUL or a lone surrogate."""
    stack = [("", row)]
    while stack:
        path, value = stack.pop()
        if isinstance(value, str):
            found = _UNUSABLE.search(value)
            if found is not None:
                return BadRow(_unusable(value, found.start(), path))
        elif isinstance(value, dict):
            stack.extend((f"{path}.{key}" if path else str(key), item) for key, item in value.items())
            stack.extend((path or "a key", key) for key in value)
        elif isinstance(value, list):
            stack.extend((f"{path}[{index}]", item) for index, item in enumerate(value))
    return row


def _unusable(value: str, index: int, path: str) -> str:
    code = ord(value[index])
    if code == 0:
        return f"a NUL character at character {index} of {path}; remove it"
    if 0xDC80 <= code <= 0xDCFF and path and "." not in path and "[" not in path:
        # As `_csv_lines` marks it: a byte that is not UTF-8. JSON escapes may spell the same code point.
        byte = len(value[:index].encode("utf-8", errors="surrogatepass"))
        return f"invalid UTF-8 (or a lone surrogate) at byte {byte} of {path} (0x{code - 0xDC00:02x})"
    return f"a lone surrogate (U+{code:04X}) at character {index} of {path}; it is half of a broken emoji or escape"
