"""A line is appended whole or not at all, and the error says why."""

from __future__ import annotations

import errno
import io
from pathlib import Path

import pytest

from veneer.text.whole_lines import append_line


class Full(io.FileIO):
    """A file on a disk that has room for so many bytes more, and takes so many at once."""

    def __init__(self, path: Path, room: int, at_once: int = 1000):
        super().__init__(path, "ab")
        self.room, self.at_once = room, at_once

    def write(self, data: bytes) -> int:  # type: ignore[override]
        taken = min(len(data), self.room, self.at_once)
        if not taken:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.room -= taken
        return super().write(data[:taken])


def test_a_line_for_which_there_is_no_room_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_bytes(b"one\n")
    with Full(path, 6) as full:
        with pytest.raises(OSError, match="No space left"):
            append_line(full, b"a longer line\n")  # type: ignore[arg-type]
        assert path.read_bytes() == b"one\n"
        full.room = 100
        append_line(full, b"two\n")  # type: ignore[arg-type]
    assert path.read_bytes() == b"one\ntwo\n"


def test_a_line_that_is_taken_in_parts_is_written_whole(tmp_path: Path) -> None:
    with Full(tmp_path / "lines", 100, at_once=3) as full:
        append_line(full, b"a longer line\n")  # type: ignore[arg-type]
    assert (tmp_path / "lines").read_bytes() == b"a longer line\n"
