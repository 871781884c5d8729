"""A run whose process was killed: what it left behind shows this, and how much memory it had.

A run writes a mark into the lock of its folder when it begins, and removes it however it ends, unless its process is
killed. If the memory is full, the kernel kills (SIGKILL) the process that has the most, and counts it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass

from veneer.machine.system import memory_kills, memory_limit
from veneer.text.strict_json import to_text


@dataclass(frozen=True, slots=True)
class Killed:
    """A process of the run that was killed."""

    step: int | None
    """The last step that it reported; 0 if it reported none, None if the log does not show that it began."""
    memory_mb: float | None
    """Its last peak memory, in MB."""
    by_kernel: bool
    """Whether the kernel has killed a process since then because of a lack of memory."""

    def message(self) -> str:
        """A description for people."""
        had = "" if self.memory_mb is None else f", when it had {self.memory_mb:,.0f} MB"
        where = "" if self.step is None else f" after step {self.step:,}" if self.step else " before its first step"
        limit = memory_limit()
        may = "" if limit is None else f" Its group (container, job) is limited to {limit / 1e6:,.0f} MB."
        if self.by_kernel:
            return f"the kernel killed this run{where}{had}, because the memory was full.{may}"
        return (
            f"the process of this run was killed{where}{had}, or the machine went down. If nobody did that on "
            f"purpose, the memory may have been full.{may}"
        )


def mark() -> str:
    """The mark of a run that begins now."""
    kills = memory_kills()
    return to_text({"memory_kills": None if kills is None else asdict(kills), "pid": os.getpid()}) + "\n"


def killed(left: str, events: Iterable[dict[str, object]]) -> Killed | None:
    """What happened to the process that had the folder before; None if it was not killed.

    Args:
        left: the mark that it left.
        events: the events of the run.
    """
    if not left:
        return None
    try:
        before = json.loads(left).get("memory_kills")
    except (ValueError, RecursionError, AttributeError):
        before = None
    begun, last = False, None
    for event in events:
        if event.get("event") == "RunStarted":
            begun, last = True, None
        elif begun and event.get("event") == "StepDone":
            last = event
    return Killed(
        step=int(str(last["step"])) if last is not None else 0 if begun else None,
        memory_mb=None if last is None else float(str(last["memory_mb"])),
        by_kernel=_killed_since(before),
    )


def _killed_since(before: object) -> bool:
    """Whether the kernel has killed a process for lack of memory since the given count. The count of another group,
    such as that of another container, says nothing."""
    now = memory_kills()
    if now is None or not isinstance(before, dict) or before.get("where") != now.where:
        return False
    count = before.get("count")
    return isinstance(count, int) and now.count > count
