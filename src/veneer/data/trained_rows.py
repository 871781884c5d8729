"""Which rows a run has trained: 8 bytes of a hash for each, kept in the run's folder, so that an evaluation can tell.

A row is known again by what it says: its turns, tools and text, wherever it stands and whichever of its turns train.
Two of a million different rows have one hash with a chance of 3 in 100 million.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from pathlib import Path

from veneer.data.formats import Record
from veneer.errors import DataError
from veneer.io.files import atomic_file

SIZE = 8
"""Bytes of a row's hash."""


def row_hashes(records: Iterable[Record]) -> bytes:
    """The hashes of rows, one behind the other."""
    return b"".join(map(_hash, records))


def _hash(record: Record) -> bytes:
    said = json.dumps([record.messages, record.tools, record.text], sort_keys=True, default=str)
    return blake2b(said.encode("utf-8", "surrogatepass"), digest_size=SIZE).digest()


def write_hashes(path: Path, hashes: bytes) -> None:
    """Write hashes of rows, sorted, so that the file says nothing of the order.

    Raises:
        OutputError: the file cannot be written.
    """
    with atomic_file(path) as partial:
        partial.write_bytes(b"".join(sorted(_each(hashes))))


def trained_among(path: Path, records: Sequence[Record]) -> list[str]:
    """Where the rows stand whose hash is in a file of `write_hashes`; none where there is no such file.

    Raises:
        DataError: the file cannot be read, or is damaged.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    if len(content) % SIZE:
        raise DataError(
            f"{path} is damaged: it has {len(content):,} bytes, which is no multiple of {SIZE}. Delete it to evaluate "
            "without knowing which rows were trained"
        )
    trained = frozenset(_each(content))
    return [record.where for record in records if _hash(record) in trained]


def _each(hashes: bytes) -> list[bytes]:
    return [hashes[start : start + SIZE] for start in range(0, len(hashes), SIZE)]
