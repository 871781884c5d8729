"""A process that is asked line by line: what it says elsewhere is kept, and it is ended where it takes too long."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import closing

import pytest

from veneer.rewards.base import RewardFailed
from veneer.rewards.process import LineProcess, Messages

ECHO = "import sys\nfor line in sys.stdin:\n    print(line.strip()[::-1], flush=True)"
CHATTERS = (
    "import sys\nfor line in sys.stdin:\n    print('x' * 5_000_000, 'end', file=sys.stderr, flush=True)\n    print()"
)
FAILS = "import sys\nsys.stdin.readline()\nsys.exit('what went wrong')"


def test_a_line_is_answered_by_a_line_however_long() -> None:
    with LineProcess([sys.executable, "-c", ECHO]) as process:
        assert process.ask(b"abc", 20, lambda: False) == b"cba\n"
        assert len(process.ask(b"x" * 300_000, 20, lambda: False)) == 300_001
        assert process.alive


def test_an_end_is_told_with_what_the_program_said() -> None:
    process = LineProcess([sys.executable, "-c", FAILS])
    with pytest.raises(RewardFailed, match="ended with code 1: what went wrong"):
        process.ask(b"abc", 20, lambda: False)
    assert not process.alive


def test_of_what_a_program_says_the_end_is_kept() -> None:
    """A reward that prints a megabyte a step would fill the disk in a long run."""
    with LineProcess([sys.executable, "-uc", CHATTERS]) as process:
        for _ in range(4):
            process.ask(b"abc", 20, lambda: False)
        assert os.fstat(process._errors.file.fileno()).st_size < 6_000_000
        assert process._errors.said().endswith("x end")


def test_whatever_reads_messages_leaves_them_in_order() -> None:
    code = "import os\nfor number in range(200_000): os.write(2, b'%03d ' % (number % 1_000))"
    with closing(Messages()) as messages:
        process = subprocess.Popen([sys.executable, "-c", code], stderr=messages.file)
        while process.poll() is None:
            messages.said()
        assert os.fstat(messages.file.fileno()).st_size == 800_000
        assert messages.said().split() == [f"{number:03d}" for number in range(875, 1_000)]


def test_a_program_that_is_not_there_is_named() -> None:
    with pytest.raises(RewardFailed, match="no-such-program cannot be run: No such file"):
        LineProcess(["no-such-program"])
