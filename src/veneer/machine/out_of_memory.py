"""Turns all errors that mean "out of memory" into one: `veneer.errors.OutOfMemory`.

Python raises MemoryError; torch a RuntimeError with a message of its allocator, or OutOfMemoryError on a GPU; the
system ENOMEM; the linker an ImportError if a library no longer fits into the address space.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager

from veneer.errors import OutOfMemory
from veneer.machine.system import address_space, memory, memory_limit

MESSAGES = re.compile(
    r"not enough memory|DefaultCPUAllocator|can't allocate memory|cannot allocate memory|out of memory|bad_?alloc"
    r"|failed to map segment|mmap.*failed|can't start new thread|could not create a (primitive|memory)",
    re.IGNORECASE,
)
KINDS = (MemoryError, RuntimeError, OSError, ImportError, SystemError)
"""The classes of such errors."""
LEAST_ADDRESS_SPACE = 720_000_000
"""Bytes of address space that are needed just to import the libraries: with less, some of them crash (measured with
torch 2.13 on Linux, one thread)."""
COMPUTING = 96_000_000
"""Bytes of address space that a process needs in addition to the model's weights before it computes, on one thread.
OpenBLAS, MKL and oneDNN allocate buffers of their own at their first products, and end the process if they cannot.
Measured on Linux with torch 2.13 and numpy 2: a run of a tiny model succeeded with 65 MB and failed with 52 MB."""
COMPUTING_THREAD = 24_000_000
"""Additional bytes for each further thread."""
BY_GROUP = (
    "limit the memory by a group (systemd-run -p MemoryMax=…, docker run --memory), which counts used memory and not "
    "addresses"
)
CARD = re.compile(
    r"(GPU \d+) has a total capacity of ([\d.]+ ?[KMGT]?iB) of which ([\d.]+ ?(?:[KMGT]?iB|bytes)) is free"
)
"""What torch says of a GPU whose memory is full."""
FULL = 0.99
"""If this share of the address space is used, any error of those classes counts as lack of memory."""
ASKED = re.compile(r"tried to allocate (\d+ bytes|[\d.]+ ?[KMGT]?iB)", re.IGNORECASE)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that there was not enough memory."""
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    return isinstance(error, KINDS) and (MESSAGES.search(str(error)) is not None or _address_space_is_full())


def refuse_little_address_space() -> None:
    """Refuse a limit of the address space (`ulimit -v`) that is too low to work with, before anything crashes on it.

    Raises:
        OutOfMemory: it is too low.
    """
    _, limit = address_space()
    if limit is not None and limit < LEAST_ADDRESS_SPACE:
        raise OutOfMemory(
            f"the process may have {_mb(limit)} of address space (ulimit -v), and the libraries alone need "
            f"{_mb(LEAST_ADDRESS_SPACE)}. Raise the limit, or {BY_GROUP}."
        )


def refuse_full_address_space(threads: int) -> None:
    """Refuse a limit of the address space (`ulimit -v`) that leaves no room to compute, before a library ends the
    process because of it.

    Args:
        threads: the number of threads that compute.

    Raises:
        OutOfMemory: too little is free.
    """
    used, limit = address_space()
    needed = COMPUTING + COMPUTING_THREAD * (threads - 1)
    if used is not None and limit is not None and limit - used < needed:
        raise OutOfMemory(
            f"the process has {_mb(used)} of the {_mb(limit)} of address space that it may have (ulimit -v), and "
            f"needs {_mb(needed)} more to compute on {threads} threads. Raise the limit to "
            f"{_mb(used + needed)} at least, or {BY_GROUP}."
        )


def _address_space_is_full() -> bool:
    used, limit = address_space()
    return used is not None and limit is not None and used > FULL * limit


@contextmanager
def out_of_memory_while(doing: str) -> Iterator[None]:
    """Turn errors that mean "out of memory" into one that says what was being done, what was needed and what there was.

    Args:
        doing: the work of the block, such as "loading the model".

    Raises:
        OutOfMemory: there was not enough memory for it.
    """
    try:
        yield
    except KINDS as error:
        if not is_out_of_memory(error):
            raise
        # The error's own traceback holds the tensors of every frame.
        raise OutOfMemory(message_of(doing, str(error))) from None


def message_of(doing: str, said: str) -> str:
    """A message that says what was being done, how much memory was requested, and how much there was."""
    asked = ASKED.search(said)
    amount = "" if asked is None else f" ({_spoken(asked[1])} more were requested)"
    card = CARD.search(said)
    there_is = (
        memory_there_is() if card is None else f"There was this much: {card[1]} has {card[2]}, {card[3]} of it free."
    )
    return f"out of memory while {doing}{amount}. {there_is}"


def memory_there_is() -> str:
    """How much memory the process has and may have, in a sentence."""
    used, limit = address_space()
    total, available = memory()
    group = memory_limit()
    facts = []
    if limit is not None and used is not None:
        facts.append(f"the process has {_mb(used)} of the {_mb(limit)} of address space that it may have (ulimit -v)")
    if group is not None:
        facts.append(f"its group (container, job) may have {_mb(group)}")
    if total is not None and available is not None:
        facts.append(f"the machine has {_mb(total)}, of which {_mb(available)} are free")
    return f"There was this much: {'; '.join(facts)}." if facts else "The system does not say how much there is."


def _mb(amount: float) -> str:
    return f"{amount / 1e6:,.0f} MB"


def _spoken(amount: str) -> str:
    number, _, unit = amount.partition(" ")
    return _mb(float(number)) if unit == "bytes" else amount
