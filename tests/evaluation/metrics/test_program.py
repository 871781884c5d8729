"""Programs that print a line for each row: none can fill the memory or hang."""

from __future__ import annotations

import re
import sys
import time

import pytest

from veneer.evaluation.metrics.program import LONGEST_LINE_BYTES, ProgramFailed, printed_lines

LIVELY = """
import sys, time
for number in range(20):
    time.sleep(0.15)
    print(".", file=sys.stderr, flush=True)
print(1)
"""


def lines(code: str, count: int, silence: float | None = None, given: bytes = b"") -> list[bytes]:
    return printed_lines([sys.executable, "-c", code], given, count, silence)


def test_what_is_given_can_be_read_before_or_after_much_is_printed() -> None:
    given = b"".join(b"%06d\n" % number for number in range(50_000))
    echo = "import sys\nfor line in sys.stdin: print(); print(line, end='', flush=True)"
    assert b"".join(lines(echo, 50_000, given=given)) == given, "empty lines aside"
    late = "import sys\nfor number in range(50_000): print(number)\nassert len(sys.stdin.read()) == 350_000"
    assert len(lines(late, 50_000, given=given)) == 50_000


def test_a_program_that_says_how_far_it_is_is_not_silent() -> None:
    assert lines(LIVELY, 1, silence=2) == [b"1\n"]


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("while True: print('y')", "printed more than 3 lines for 3 rows; print one for each"),
        ("while True: print('y' * 9999, end='')", f"printed a line of more than {LONGEST_LINE_BYTES:,} bytes"),
        ("while True: print()", "printed nothing for 1 s and was stopped"),
        ("import time; print(1, flush=True); time.sleep(60)", "printed nothing for 1 s and was stopped"),
        ("import os, time; os.close(1); time.sleep(60)", "printed nothing for 1 s and was stopped"),
        ("import sys; sys.stderr.write('x' * 10**6 + 'why'); sys.exit(4)", "ended with code 4: x*why$"),
        ("import sys; sys.exit(3)", "ended with code 3: it wrote nothing to standard error"),
    ],
)
def test_a_program_without_end_is_ended(code: str, said: str) -> None:
    begun = time.monotonic()
    with pytest.raises(ProgramFailed, match=said if "x*" in said else re.escape(said)):
        lines(code, 3, silence=1 if "nothing" in said else 20)
    assert time.monotonic() - begun < 55  # some would sleep for 60 s
