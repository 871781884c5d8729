"""The rows that a run has trained: an 8-byte hash of each is kept in the run's folder, for later evaluations.

A row is recognised by its content: its turns, tools and text, whatever its place and whichever of its turns are
trained. The chance that two of a million different rows have the same hash is 3 in 100 million.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from veneer.data.forms.record import Record
from veneer.errors import DataError
from veneer.io.files import atomic_file

HASH_BYTES = 8
"""The bytes of a row's hash."""
HASHES_AT_ONCE = 1_000_000
"""The approximate number of hashes that are sorted, or searched, at a time."""


def row_hashes(records: Iterable[Record]) -> bytes:
    """The hashes of rows, one after the other."""
    return b"".join(map(_hash, records))


def _hash(record: Record) -> bytes:
    said = json.dumps([record.messages, record.tools, record.text], sort_keys=True, default=str)
    return blake2b(said.encode(), digest_size=HASH_BYTES).digest()


def write_hashes(path: Path, hashes: Iterable[bytes]) -> None:
    """Write the hashes of rows, sorted, so that the file does not reveal their order.

    Args:
        path: the file.
        hashes: the hashes of `row_hashes`, in pieces; they are iterated several times.

    Raises:
        OutputError: the file cannot be written.
    """
    count = sum(map(len, hashes)) // HASH_BYTES
    # The hashes are sorted in parts that need little memory. The first byte, as good as random, assigns the part.
    parts = min(256, 1 + count // HASHES_AT_ONCE)
    with atomic_file(path) as partial, partial.open("wb") as file:
        for part in range(parts):
            chosen = [_of_part(piece, part, parts) for piece in hashes]
            ordered = np.concatenate(chosen) if chosen else np.empty(0, dtype=np.uint64)
            del chosen
            ordered.sort()
            file.write(ordered.astype(">u8").data)


def _of_part(piece: bytes, part: int, parts: int) -> NDArray[np.uint64]:
    """The hashes whose first byte belongs to a part."""
    found: NDArray[np.uint64] = np.frombuffer(piece, dtype=">u8").astype(np.uint64)
    own: NDArray[np.bool_] = (found >> np.uint64(56)) * np.uint64(parts) // np.uint64(256) == part
    return found[own]


@dataclass(frozen=True, slots=True)
class FileHashes:
    """The hashes in a file of `write_hashes`, in pieces; none if the file does not exist.

    Raises:
        DataError: the file cannot be read, or is damaged; raised during iteration.
    """

    path: Path

    def __iter__(self) -> Iterator[bytes]:
        try:
            with self.path.open("rb") as file:
                size = self.path.stat().st_size
                if size % HASH_BYTES:
                    raise DataError(
                        f"{self.path} is damaged: it has {size:,} bytes, which is not a multiple of {HASH_BYTES}. "
                        "Delete it to continue without knowing which rows were trained"
                    )
                while piece := file.read(HASH_BYTES * HASHES_AT_ONCE):
                    yield piece
        except FileNotFoundError:
            return
        except OSError as error:
            raise DataError(f"{self.path}: cannot be read: {error.strerror or error}") from error


@dataclass(frozen=True, slots=True)
class JoinedHashes:
    """The hashes of several sources, one after the other; they can be iterated again."""

    sources: tuple[Iterable[bytes], ...]

    def __iter__(self) -> Iterator[bytes]:
        return chain.from_iterable(self.sources)


def rows_also_in(trained: Iterable[Record], records: Sequence[Record]) -> list[str]:
    """The places of the rows that are also in `trained`."""
    known = set(map(_hash, trained))
    return [record.where for record in records if _hash(record) in known]


def trained_among(path: Path, records: Sequence[Record]) -> list[str]:
    """The places of the rows whose hash is in a file of `write_hashes`; none if the file does not exist.

    Raises:
        DataError: the file cannot be read, or is damaged.
    """
    asked = np.frombuffer(row_hashes(records), dtype=">u8").astype(np.uint64)
    wanted = np.unique(asked)
    found = np.zeros(len(wanted), dtype=np.bool_)
    for piece in FileHashes(path) if len(wanted) else ():
        trained = np.frombuffer(piece, dtype=">u8").astype(np.uint64)
        at = np.minimum(np.searchsorted(wanted, trained), len(wanted) - 1)
        found[at[wanted[at] == trained]] = True
    known = found[np.searchsorted(wanted, asked)]
    return [record.where for record, one in zip(records, known.tolist(), strict=True) if one]
