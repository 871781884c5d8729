"""Keeps Python's garbage collector from stopping a server.

A full collection visits every object of the process. The objects of torch and of the loaded model, some 200,000, take
60 to 160 ms. During this time no thread runs Python code, so all answers stop. None of these objects becomes garbage
while the server runs.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def loaded_objects_left_out() -> Iterator[None]:
    """Keep the objects that exist at the beginning of the block out of all collections until its end.

    This does nothing if the program has frozen objects itself, because the two could not be told apart afterwards.
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
