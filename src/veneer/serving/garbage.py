"""Python's garbage collector beside a server.

A full collection walks over every object of the process. Those of torch and of the loaded model alone, some 200,000,
take it 60 to 160 ms, in which no thread runs Python code: all answers stand still. None of these objects becomes
garbage while the server runs.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def loaded_objects_left_out() -> Iterator[None]:
    """Keep what is there at the beginning of the block out of all collections until its end.

    Nothing changes where the program has frozen objects itself: which of them are its own could not be told afterwards.
    """
    if gc.get_freeze_count():
        yield
        return
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
