"""The limits of the process in which an untrusted chat template runs; the operating system enforces them.

- processor time: a timer ends the process when the template has used up its budget. The budget starts at `SECONDS`.
  Every conversation adds to it by its size (some ten times what a template needs), and up to `SECONDS` of it are kept.
  So a template that is slow on every row is stopped like one that hangs on the first.
- memory: the address space may grow by `MEMORY` beyond the interpreter's own, and by ten times the size of a request
  larger than `LARGE`.
- files: none can be written.
- text: a conversation may become `GRANTED_TEXT` characters, plus `TEXT_PER_CHARACTER` for each of its own. Text beyond
  that is subtracted from `TEXT`, once for all conversations: all of it is tokenised, which takes longer than writing
  it, and a hundred times its memory. This limit is enforced on every system.

Windows has neither the timer nor the limits, and macOS does not enforce the limit on memory. There only the parent's
wall clock and the counts of sandbox.py stop a template.
"""

from __future__ import annotations

import os
import signal
import sys
import time

from veneer.errors import DataError

SECONDS = 1.5
MEMORY = 384 << 20
LARGE = 8 << 20
PER_LARGE_BYTE = 10

GRANT = 0.005
GRANT_PER_TURN = 0.0002
GRANT_PER_CHARACTER = 5e-8

TEXT = 1_000_000
GRANTED_TEXT = 20_000
TEXT_PER_CHARACTER = 20

_TIMER = sys.platform != "win32"


class TimeBudget:
    """The processor time that the template may still use."""

    def __init__(self) -> None:
        self._left = SECONDS
        self._armed = 0.0

    def begin(self, turns: int, characters: int) -> None:
        """Start the clock for one conversation, which may be rendered once per turn."""
        rendering = GRANT_PER_TURN * turns + GRANT_PER_CHARACTER * characters
        self._left = min(self._left, SECONDS) + GRANT + (turns + 1) * rendering
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
        self._left = TEXT

    def spend(self, written: int, given: int) -> None:
        """Subtract the text of a conversation from the budget.

        Args:
            written: the characters that the template wrote.
            given: the characters of the conversation.

        Raises:
            DataError: the budget is spent.
        """
        granted = GRANTED_TEXT + TEXT_PER_CHARACTER * given
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
        limit = self._base + MEMORY + (PER_LARGE_BYTE * size if size > LARGE else 0)
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
