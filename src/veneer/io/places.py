"""Paths that a user has named; everything that the system refuses on the way becomes an error."""

from __future__ import annotations

from pathlib import Path

from veneer.config.values import home_replaced
from veneer.errors import VeneerError


def place_named(name: str | Path, error: type[VeneerError]) -> Path:
    """The path that a user has named, with `~` replaced. Checks of its existence then raise no error.

    Args:
        name: the name that the user gave.
        error: the class of the error that is raised.

    Raises:
        VeneerError: a home folder is not known, or the system cannot access the path. Its class is `error`.
    """
    try:
        path = Path(home_replaced(str(name)))
    except ValueError as problem:
        raise error(str(problem)) from problem
    look(path, error)
    return path


def missing(path: Path) -> str:
    """The statement that nothing is at a path, for an error; for a relative path it names the folder that was searched.
    A run records names as they were given, and may be resumed from another folder than the one in which it was
    started."""
    if path.is_absolute():
        return f"{path} does not exist"
    return f"{path} does not exist in {working_folder() or 'the working folder, which was deleted'}"


def working_folder() -> Path | None:
    """The working folder; None if it was deleted."""
    try:
        return Path.cwd()
    except FileNotFoundError:
        return None


def look(path: Path, error: type[VeneerError]) -> None:
    """Check that the system can access a path, so that later checks raise no error. Arguments and errors as
    `place_named`."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return
    except (OSError, ValueError) as problem:  # ValueError: no path holds the character 0
        reason = problem.strerror if isinstance(problem, OSError) else problem
        raise error(f"{_shown(path)} cannot be looked for: {reason}. Check the path and its permissions.") from problem


def _shown(name: str | Path) -> str:
    text = str(name)
    return text if len(text) <= 300 else f"{text[:300]}…"
