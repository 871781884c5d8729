"""Reads rows from JSON and JSON Lines files."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from veneer.data.files.file_starts import text_start
from veneer.data.files.given_names import shown_name
from veneer.data.files.json_values import MAX_DEPTH, BadRow, checked_row, decode_row, kind, parsed_row
from veneer.errors import DataError


def read_jsonl(path: Path) -> Iterator[tuple[str, Any]]:
    """Read a file with one row a line; blank lines are skipped.

    Raises:
        DataError: the file is not text in UTF-8, or is JSON with the suffix of JSON Lines.
    """
    name, begun = shown_name(path), False
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
            yield f"{name}:{number}", row


def _refuse_json(path: Path, number: int, line: bytes, row: Any) -> None:
    """Refuse a file of JSON with the suffix of JSON Lines, by its first line that is not blank.

    Raises:
        DataError: the line begins a list that spans several lines or is the whole file, or an object that does.
    """
    begins = line == b"[" or (isinstance(row, BadRow) and re.match(rb"\[\s*\{", line))
    if begins or (isinstance(row, list) and _is_last_line(path, number)):
        raise DataError(
            f"{path}:{number}: a JSON array begins here; JSON Lines has one object per line: name the file .json"
        )
    if line == b"{":
        raise DataError(
            f"{path}:{number}: an object spans several lines; JSON Lines has one object per line: write each on one "
            "line, or all as a list, [{...}, {...}], into a file that is named .json"
        )


def _is_last_line(path: Path, number: int) -> bool:
    """Whether only white space follows a line."""
    with path.open("rb") as handle:
        return not any(line.strip() for line in islice(handle, number, None))


def parse_line(raw: bytes) -> Any:
    """The row in a line of JSON Lines, or a BadRow with the reason why there is none."""
    try:
        line = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        return BadRow(
            f"invalid UTF-8 at byte {error.start} of the line (0x{raw[error.start]:02x}); save the file as UTF-8"
        )
    return parsed_row(line)


def read_json(path: Path) -> Iterator[tuple[str, Any]]:
    """Read a file that is a list of rows, or an object with such a list under `data`.

    Raises:
        DataError: the file is neither, or not JSON in UTF-8.
    """
    raw = text_start(path, path.read_bytes())
    try:
        content = decode_row(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path}:{line}: invalid UTF-8 at byte {error.start} of the file; save the file as UTF-8"
        ) from error
    except json.JSONDecodeError as error:
        hint = "; one object per line is JSON Lines: name the file .jsonl" if error.msg == "Extra data" else ""
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
        raise DataError(f'{path}: must hold a list of objects or {{"data": [...]}}, not {kind(content)}')
    for number, row in enumerate(rows, start=1):
        yield f"{path}:{number}", checked_row(row)
