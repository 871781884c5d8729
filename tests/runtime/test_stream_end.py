"""The end of what a program writes: nothing of it is lost, and however much was written, little is held."""

from __future__ import annotations

import subprocess
import sys
import time

from veneer.runtime.stream_end import StreamEnd

COUNTS = "import os\nfor number in range(200_000): os.write(2, b'%03d ' % (number % 1_000))"
WRITES = "import os\nos.write(2, {!r})\n"
LEAVES_ANOTHER = WRITES.format(b"mine") + "if os.fork() == 0: os.read(0, 1)"


def program(code: str) -> tuple[subprocess.Popen[bytes], StreamEnd]:
    """A program that runs, and the end of its standard error: its last 500 characters."""
    pipe = subprocess.PIPE
    process = subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stderr=pipe)
    assert process.stderr is not None
    return process, StreamEnd(process.stderr, 500)


def finish(process: subprocess.Popen[bytes], given: bytes = b"") -> None:
    """Give a program its input, and wait until it has ended."""
    assert process.stdin is not None
    with process.stdin as stdin:
        stdin.write(given)
    assert process.wait() == 0


def test_the_last_characters_are_kept_whoever_looks_meanwhile() -> None:
    process, end = program(COUNTS)
    while process.poll() is None:
        assert len(end.text()) <= 500
    assert end.ended(20)
    assert end.text().split() == [f"{number:03d}" for number in range(875, 1_000)]
    assert len(end._last) == 2_000  # bytes: 500 characters need no more
    finish(process)


def test_characters_are_whole_and_other_bytes_are_marked() -> None:
    process, end = program("import os\nos.write(2, ('a' * 7 + chr(0x1F600) * 499 + '\\n').encode())")
    finish(process)
    assert end.ended(20)
    assert end.text() == "a" + "\U0001f600" * 499
    process, end = program(WRITES.format(b"  half \xf0\x9f of one"))
    finish(process)
    assert end.ended(20)
    assert end.text() == "half \ufffd of one"


def test_a_process_that_holds_the_stream_open_is_not_waited_for() -> None:
    process, end = program(LEAVES_ANOTHER)
    process.wait()
    begun = time.monotonic()
    assert not end.ended(0.2)
    assert 0.2 <= time.monotonic() - begun < 10
    assert end.text() == "mine"
    finish(process)  # closes the input, which the other one waits for
    assert end.ended(20)


def test_the_time_of_the_last_reading_is_known() -> None:
    begun = time.monotonic()
    process, end = program("import os\nos.read(0, 1)\nos.write(2, b'late')")
    first = end.read_at
    assert begun <= first <= time.monotonic()
    finish(process, b"x")
    assert end.ended(20)
    assert first < end.read_at <= time.monotonic()
