"""Lists of hashes, one for each row, in a temporary file instead of in memory."""

from __future__ import annotations

import os
import tempfile
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from veneer.data.lint.shingles import Hashes

_WIDTH = 4
"""Bytes of a hash."""


class Spill:
    """Appends lists of hashes and reads any of them again. Use as a context manager: the file goes with it."""

    def __init__(self) -> None:
        # Not mapped into memory: pages of a mapped file would count as the process's own.
        self._file = tempfile.TemporaryFile(prefix="veneer-data-", buffering=0)  # noqa: SIM115 (closed by __exit__)
        self._counts: list[NDArray[np.int64]] = []
        self._starts: NDArray[np.int64] | None = None

    def __enter__(self) -> Spill:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def append(self, hashes: Hashes, counts: NDArray[np.int64]) -> None:
        """Add the hashes of some rows, laid end to end, and how many each row has."""
        view = memoryview(hashes.tobytes())
        while view:
            view = view[self._file.write(view) :]
        self._counts.append(counts)
        self._starts = None

    def read(self, row: int) -> Hashes:
        """The hashes of a row."""
        if self._starts is None:
            self._starts = np.concatenate(([0], np.cumsum(np.concatenate(self._counts)))).astype(np.int64)
        start, end = int(self._starts[row]), int(self._starts[row + 1])
        raw = os.pread(self._file.fileno(), (end - start) * _WIDTH, start * _WIDTH)
        return np.frombuffer(raw, dtype=np.uint32)
