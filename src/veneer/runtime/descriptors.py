"""The descriptors of standard output and error, below Python's own streams."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

STDOUT = 1


def take_everything(number: int) -> None:
    """Redirect a descriptor to the null device from now on; this also affects a write that is retried."""
    with suppress(OSError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, number)
        os.close(null)


@contextmanager
def silent_stdout() -> Iterator[None]:
    """Drop what libraries write to standard output meanwhile; Python's own buffered text is not affected."""
    try:
        kept = os.dup(STDOUT)
    except OSError:  # it was closed from the start
        yield
        return
    take_everything(STDOUT)
    try:
        yield
    finally:
        os.dup2(kept, STDOUT)
        os.close(kept)
