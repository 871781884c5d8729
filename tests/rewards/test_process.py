"""A process that is asked line by line: what it says elsewhere is kept, and it is ended where it takes too long."""

from __future__ import annotations

import sys

import pytest

from veneer.rewards.base import RewardFailed
from veneer.rewards.process import LineProcess

ECHO = "import sys\nfor line in sys.stdin:\n    print(line.strip()[::-1], flush=True)"
CHATTERS = """
import sys
for line in sys.stdin:
    print('x' * 5_000_000, 'end', file=sys.stderr, flush=True)
    if line == 'end\\n':
        sys.exit(3)
    print()
"""
FAILS = "import sys\nsys.stdin.readline()\nsys.exit('what went wrong')"
LEAVES_ANOTHER = """
import subprocess, sys
nothing = subprocess.DEVNULL
subprocess.Popen(["sleep", "3"], stdin=nothing, stdout=nothing, start_new_session=True)
sys.exit("what went wrong")
"""


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


def test_a_program_that_says_much_is_answered_and_its_last_words_are_kept() -> None:
    """Its standard error is read all the time: a pipe that is full would stop it."""
    with LineProcess([sys.executable, "-uc", CHATTERS]) as process:
        for _ in range(4):
            assert process.ask(b"abc", 20, lambda: False) == b"\n"
        with pytest.raises(RewardFailed, match=r"ended with code 3: x{490,} end$"):
            process.ask(b"end", 20, lambda: False)


def test_an_end_is_told_although_another_process_holds_the_stream() -> None:
    with pytest.raises(RewardFailed, match="ended with code 1: what went wrong"):
        LineProcess([sys.executable, "-c", LEAVES_ANOTHER]).ask(b"abc", 20, lambda: False)


def test_a_program_that_is_not_there_is_named() -> None:
    with pytest.raises(RewardFailed, match="no-such-program cannot be run: No such file"):
        LineProcess(["no-such-program"])
