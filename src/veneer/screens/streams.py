"""Standard streams that never fail: once their reader or disk accepts no more, further output is dropped."""

from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import suppress
from typing import TextIO

from veneer.runtime.descriptors import take_everything


class LossyStream(io.TextIOBase):
    """A stream for output other than the result: progress, notes, the place of a run's folder.

    Args:
        current: a function that returns the current stream, or None if the process has none: `lambda: sys.stderr`. A
            closed stream counts as none.
    """

    def __init__(self, current: Callable[[], TextIO | None]):
        self._given = current

    def _current(self) -> TextIO | None:
        stream = self._given()
        return None if stream is None or stream.closed else stream

    def write(self, text: str) -> int:
        """See `io.TextIOBase.write`."""
        stream = self._current()
        if stream is not None:
            try:
                stream.write(text)
            except OSError:
                drop_rest(stream)
        return len(text)

    def flush(self) -> None:
        """See `io.IOBase.flush`."""
        stream = self._current()
        if stream is not None:
            try:
                stream.flush()
            except OSError:
                drop_rest(stream)

    def isatty(self) -> bool:
        """See `io.IOBase.isatty`."""
        stream = self._current()
        return stream is not None and stream.isatty()

    def fileno(self) -> int:
        """See `io.IOBase.fileno`."""
        stream = self._current()
        if stream is None:
            raise io.UnsupportedOperation("fileno")
        return stream.fileno()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """See `io.TextIOBase.encoding`."""
        stream = self._current()
        return "utf-8" if stream is None else stream.encoding


def drop_rest(stream: TextIO) -> None:
    """Redirect a broken stream so that it accepts everything, and what is left in its buffers does not fail again."""
    with suppress(OSError, ValueError):
        take_everything(stream.fileno())
