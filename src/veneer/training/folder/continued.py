"""From where a run can be continued that could not write something."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from veneer.errors import OutputError
from veneer.run_folder import RunFolder


@contextmanager
def continued_later(folder: RunFolder) -> Iterator[None]:
    """Add to an `OutputError` of the block how the run in this folder goes on once the cause is removed.

    Raises:
        OutputError: the error of the block, with that sentence.
    """
    try:
        yield
    except OutputError as error:
        steps = folder.checkpoint_steps()
        remedy = f"continue after step {steps[-1]:,} with --resume" if steps else "the same command starts again"
        raise OutputError(f"{error} Then {remedy}.") from error
