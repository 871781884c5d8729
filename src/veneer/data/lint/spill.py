"""Lists of hashes, one for each row, in a temporary file instead of in memory."""

from __future__ import annotations

import tempfile
from array import array
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from veneer.data.lint.shingles import Hashes
from veneer.runtime.posix import read_at

_HASH_BYTES = 4
"""The bytes of a hash."""


class Spill:
    """Appends lists of hashes and reads any of them again. As a context manager it deletes the file at its end."""

    def __init__(self) -> None:
        # Not mapped into memory: pages of a mapped file would count as the process's own.
        self._file = tempfile.TemporaryFile(prefix="veneer-data-", buffering=0)  # noqa: SIM115 (closed by __exit__)
        self._ends = array("q", [0])  # the end of the list before each row; eight bytes a row, in a growing block

    def __enter__(self) -> Spill:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def append(self, hashes: Hashes, counts: NDArray[np.int64]) -> None:
        """Add the hashes of some rows, one row after the other, and the number of each row's hashes."""
        view = memoryview(hashes.tobytes())
        while view:
            view = view[self._file.write(view) :]
        self._ends.frombytes((self._ends[-1] + np.cumsum(counts, dtype=np.int64)).tobytes())

    def read(self, row: int) -> Hashes:
        """The hashes of a row."""
        start, end = self._ends[row], self._ends[row + 1]
        raw = read_at(self._file, (end - start) * _HASH_BYTES, start * _HASH_BYTES)
        return np.frombuffer(raw, dtype=np.uint32)
