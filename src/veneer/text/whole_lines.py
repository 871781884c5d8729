"""Appends lines to a file completely or not at all: half a line would be glued to the next."""

from __future__ import annotations

from typing import BinaryIO


def append_line(file: BinaryIO, line: bytes) -> None:
    """Append a line to a file.

    Args:
        file: a file that is open for appending and unbuffered: a write that a full disk refused must not be tried again
            when the file is closed.
        line: the line, with a line feed at its end.

    Raises:
        OSError: the line could not be written (a full disk, say), and the file is as long as before.
    """
    written = 0
    try:
        while written < len(line):
            # A disk that becomes full accepts only a part; the next try says why it accepts no more.
            written += file.write(line[written:])
    except OSError:
        file.truncate(file.tell() - written)
        raise
