"""The limits of the process in which an untrusted chat template runs; the operating system enforces them.

- processor time: a timer ends the process when the template has used up its budget, which starts at `BUDGET_SECONDS`.
  Every conversation adds to it by its size (some ten times what a template needs), but what is left of it before never
  counts for more than `BUDGET_SECONDS`. So a template that is slow on every row is stopped like one that hangs on the
  first.
- memory: the address space may grow by `MEMORY_BYTES` beyond the interpreter's own, and by ten times the size of a
  request larger than `LARGE_REQUEST_BYTES`.
- files: none can be written.
- text: a conversation may become `GRANT_CHARS` characters, plus `GRANT_CHARS_PER_CHAR` for each of its own. Text beyond
  that is subtracted from `BUDGET_CHARS`, once for all conversations: all of it is tokenised, which takes longer than
  writing it, and a hundred times its memory. This limit is enforced on every system.

Windows has neither the timer nor the limits, and macOS does not enforce the limit on memory. There only the parent's
wall clock and the counts of sandbox.py stop a template.
"""

from __future__ import annotations

import os
import signal
import sys
import time

from veneer.errors import DataError

BUDGET_SECONDS = 1.5
MEMORY_BYTES = 384 << 20
LARGE_REQUEST_BYTES = 8 << 20
MEMORY_PER_LARGE_BYTE = 10

GRANT_SECONDS = 0.005
GRANT_SECONDS_PER_TURN = 0.0002
GRANT_SECONDS_PER_CHAR = 5e-8

BUDGET_CHARS = 1_000_000
GRANT_CHARS = 20_000
GRANT_CHARS_PER_CHAR = 20

_TIMER = sys.platform != "win32"


class TimeBudget:
    """The processor time that the template may still use."""

    def __init__(self) -> None:
        self._left = BUDGET_SECONDS
        self._armed = 0.0

    def begin(self, turns: int, characters: int) -> None:
        """Start the clock for one conversation, which may be rendered once per turn."""
        rendering = GRANT_SECONDS_PER_TURN * turns + GRANT_SECONDS_PER_CHAR * characters
        self._left = min(self._left, BUDGET_SECONDS) + GRANT_SECONDS + (turns + 1) * rendering
        self._armed = time.process_time()
        if _TIMER:
            # The signal is not caught: the system ends the process in the middle of any operation.
            signal.setitimer(signal.ITIMER_PROF, max(self._left, 1e-3))

    def end(self) -> None:
        """Stop the clock."""
        if _TIMER:
            signal.setitimer(signal.ITIMER_PROF, 0)
        self._left -= time.process_time() - self._armed


class TextBudget:
    """The characters that the template may still write beyond those granted to its conversations."""

    def __init__(self) -> None:
        self._left = BUDGET_CHARS

    def spend(self, written: int, given: int) -> None:
        """Subtract the text of a conversation from the budget.

        Args:
            written: the characters that the template wrote.
            given: the characters of the conversation.

        Raises:
            DataError: the budget is spent.
        """
        granted = GRANT_CHARS + GRANT_CHARS_PER_CHAR * given
        self._left -= max(written - granted, 0)
        if self._left < 0 and written > granted:
            raise DataError(
                f"the chat template makes {written:,} characters of a conversation of about {given:,}; "
                f"at most {granted:,} are allowed"
            )


class MemoryLimit:
    """The limit on the address space."""

    def __init__(self) -> None:
        self._base = _address_space()
        self._limit = 0
        if sys.platform != "win32":
            import resource

            resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        self.allow(0)

    def allow(self, size: int) -> None:
        """Set the limit for a request of this many bytes."""
        limit = self._base + MEMORY_BYTES + (MEMORY_PER_LARGE_BYTE * size if size > LARGE_REQUEST_BYTES else 0)
        if self._base and limit != self._limit and sys.platform != "win32":
            import resource

            _, most = resource.getrlimit(resource.RLIMIT_AS)
            resource.setrlimit(resource.RLIMIT_AS, (limit if most < 0 else min(limit, most), most))
            self._limit = limit


def _address_space() -> int:
    """The used bytes of the address space, or 0 if the system does not report them."""
    try:
        with open("/proc/self/statm", encoding="ascii") as statm:
            return int(statm.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return 0
