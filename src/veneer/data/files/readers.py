"""Reads rows from data files: JSON Lines, JSON, CSV, TSV and Parquet, in UTF-8, with or without a BOM, with LF or CRLF.

A reader yields (where, row). A row that cannot be parsed is yielded as a BadRow with the reason. A file that cannot be
read any further raises a DataError.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from veneer.data.files.arrow_rows import read_parquet
from veneer.data.files.csv_rows import read_csv
from veneer.data.files.json_rows import read_json, read_jsonl
from veneer.enums import Column
from veneer.errors import DataError
from veneer.io.places import look, missing

SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet")


def iterate_rows(
    path: Path | str, notes: list[str] | None = None, columns: Mapping[Column, str] | None = None
) -> Iterator[tuple[str, Any]]:
    """Read the rows of a file one by one, as they are requested: each as the file has it, with its place.

    Args:
        path: the file; its suffix determines its format.
        notes: gets a sentence about each part of the file that could not be read exactly, after the rows are read.
        columns: maps veneer's name of a column to the file's name (`data.columns`). It determines which cells of CSV
            hold JSON; the keys of the rows stay the file's names.

    Raises:
        DataError: the file is missing, of an unknown kind, or broken beyond one row.
    """
    path = Path(path)
    look(path, DataError)
    if path.is_dir():
        raise DataError(f"{path} is a folder; name one data file ({', '.join(SUFFIXES)})")
    if not path.exists():
        raise DataError(f"{missing(path)}; check the path of the data file")
    if not path.is_file():
        raise DataError(
            f"{path} is a pipe or a device, but rows are read more than once; write them into a file and give that file"
        )
    try:
        match path.suffix.lower():
            case ".jsonl":
                yield from read_jsonl(path)
            case ".json":
                yield from read_json(path)
            case ".csv" | ".tsv":
                yield from read_csv(path, [] if notes is None else notes, columns)
            case ".parquet":
                yield from read_parquet(path, [] if notes is None else notes)
            case suffix:
                ending = f"ends in {suffix!r}" if suffix else "has no suffix"
                raise DataError(f"{path} {ending}; veneer reads {', '.join(SUFFIXES)}")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error


def count_lines(files: Sequence[str]) -> int | None:
    """The number of lines of JSON Lines files; None if a file is of another format or does not exist."""
    paths = [Path(file) for file in files]
    if not all(path.suffix.lower() == ".jsonl" and path.is_file() for path in paths):
        return None
    return sum(map(_lines, paths))


def _lines(path: Path) -> int:
    count, last = 0, b"\n"
    with path.open("rb", buffering=0) as file:
        for block in iter(partial(file.read, 1 << 20), b""):
            count, last = count + block.count(b"\n"), block[-1:]
    return count + (last != b"\n")  # the last line may have no end
