"""Everything that veneer refuses, as one tree.

::

    VeneerError                 a user can mend it; the command line prints it and exits with `exit_code`
    ├── ConfigError             a configuration key, value or combination
    ├── DataError               a data file or one of its rows
    ├── ModelError              a model's files, format or architecture
    ├── AdapterError            an adapter's files, or an adapter that does not fit its base
    ├── CheckpointError         a training checkpoint that is missing, damaged or of another run
    ├── OutOfMemory             there was no memory for something, on the CPU or on the GPU
    ├── OutputError             a folder that cannot be written, or a disk that is full
    └── TrainingStopped         the run ended before its last step
        ├── Diverged            the loss or a gradient was not finite
        ├── RankLost            another process of the run is gone, or cannot be reached
        └── Interrupted         the user or the system asked the run to stop
            └── Ended           a server or a studio was asked to stop, and finished its work

A message states the value that was met, the rule that it breaks, and the remedy. Where several things are
wrong, one error names all of them: `listing` formats them.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches


class VeneerError(Exception):
    """Base of every error that a user can correct."""

    exit_code = 2


class ConfigError(VeneerError):
    """A configuration key, value or combination is not allowed."""


class DataError(VeneerError):
    """A data file, or a row of it, cannot be used."""


class ModelError(VeneerError):
    """A model's files are missing, damaged, or of a kind that veneer does not read."""


class AdapterError(VeneerError):
    """An adapter's files are missing or damaged, or do not fit the base model."""


class CheckpointError(VeneerError):
    """A training checkpoint is missing, damaged, or belongs to another run."""


class OutputError(VeneerError):
    """A result could not be written; what was there before is untouched."""


class OutOfMemory(VeneerError):
    """There was not enough memory; the message says what was needed, what there was, and what fits."""


class TrainingStopped(VeneerError):
    """A run ended before its last step; its last good checkpoint is kept."""


class Diverged(TrainingStopped):
    """The loss or the gradient norm became NaN or infinite."""

    exit_code = 3


class Interrupted(TrainingStopped):
    """The run was asked to stop. If a signal asked for it, the exit code is the signal's (`veneer.runtime.signals`)."""

    exit_code = 130


class Ended(Interrupted):
    """Something that runs until it is asked to stop, such as a server, has stopped and left nothing undone. The command
    line does not call this an error; the exit code is still that of the signal."""


class RankLost(TrainingStopped):
    """Another process of the run has failed, was killed or stopped, or cannot be reached."""


@contextmanager
def reading(kind: type[VeneerError], name: object = None) -> Iterator[None]:
    """Turn errors of the system while files are read into one of veneer's.

    Args:
        kind: which of them.
        name: what the message calls the file; by default as the system does.
    """
    try:
        yield
    except OSError as error:
        raise kind(f"{name or error.filename}: cannot be read: {error.strerror or error}") from error


def listing(lines: Iterable[str], *, limit: int = 20) -> str:
    """Format offenders as an indented list, at most `limit` of them, with the number left out."""
    items = list(lines)
    shown = [f"  - {line}" for line in items[:limit]]
    if len(items) > limit:
        shown.append(f"  … and {len(items) - limit} more")
    return "\n".join(shown)


def nearest(name: str, known: Sequence[str]) -> str:
    """A hint that names the known word closest to `name`, or an empty string if none is close."""
    close = get_close_matches(name, known, n=1, cutoff=0.6)
    return f" (did you mean {close[0]!r}?)" if close else ""


def where_raised(error: BaseException) -> str:
    """The kind of an unforeseen error and where it was raised, for a log. Its message may contain what a user wrote,
    and is left out."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} in {place.filename}, line {place.lineno}"
