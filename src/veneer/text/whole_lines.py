"""Lines that are appended to a file whole or not at all: half of one would be glued to the next."""

from __future__ import annotations

from typing import BinaryIO


def append_line(file: BinaryIO, line: bytes) -> None:
    """Append a line to a file.

    Args:
        file: open for appending, and unbuffered: what a full disk refused must not be tried again when it is closed.
        line: with the line feed at its end.

    Raises:
        OSError: the line could not be written (a full disk, say), and the file is as long as before.
    """
    written = 0
    try:
        while written < len(line):
            # A disk that becomes full takes a part; the next try says why it takes no more.
            written += file.write(line[written:])
    except OSError:
        file.truncate(file.tell() - written)
        raise
