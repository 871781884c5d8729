"""The end of what a program writes to its standard error, for the message that tells of the program's failure."""

from __future__ import annotations

import os
import time
from threading import Thread
from typing import IO

_PIECE_BYTES = 65_536
_BYTES_A_CHARACTER = 4  # the most of UTF-8


class StreamEnd:
    """The last characters of a pipe, which a thread reads until the pipe ends.

    However much a program writes, this holds little, and the program never waits for a reader. (A file that is
    shortened while a program writes to it loses what is written in that moment.)

    Args:
        stream: the reading end of the pipe, opened without text. It is closed at its end.
        characters: how many characters are kept.
    """

    def __init__(self, stream: IO[bytes], characters: int):
        self.read_at = time.monotonic()
        """When something was last read, in seconds of `time.monotonic`; at first, when reading began."""
        self._stream, self._characters, self._last = stream, characters, b""
        self._thread = Thread(target=self._read, daemon=True)
        self._thread.start()

    def ended(self, seconds: float) -> bool:
        """Wait until everything was read, at most for some seconds. Whether everything was: a process that the program
        has started keeps the pipe open, even when the program itself has ended."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def text(self) -> str:
        """The last characters that were read, without white space around them."""
        return self._last.decode("utf-8", errors="replace").strip()[-self._characters :]

    def _read(self) -> None:
        with self._stream:
            while piece := os.read(self._stream.fileno(), _PIECE_BYTES):
                self._last = (self._last + piece)[-_BYTES_A_CHARACTER * self._characters :]
                self.read_at = time.monotonic()
