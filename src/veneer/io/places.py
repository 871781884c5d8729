"""Where a user's words point to: a path, with everything that the system refuses while it looks there as an error."""

from __future__ import annotations

from pathlib import Path

from veneer.errors import VeneerError


def place_named(name: str | Path, error: type[VeneerError]) -> Path:
    """The path that a user has named, with `~` replaced. Whether something is there can be asked without an error.

    Args:
        name: what was named.
        error: the kind of error that is raised.

    Raises:
        VeneerError: of the kind `error`: a home is not known, or the system cannot look there.
    """
    try:
        path = Path(name).expanduser()
    except RuntimeError as problem:  # of no class of its own
        raise error(
            f"{_shown(name)}: {problem} `~` stands for the folder in HOME, and `~NAME` for the home of a user: "
            "write the path in full, or ./~NAME for what is called so."
        ) from problem
    look(path, error)
    return path


def missing(path: Path) -> str:
    """That nothing is at a path, as an error says it: of a relative one also where it was looked for. A run records
    names as they were given, and may be gone on with from another folder than it was started in."""
    if path.is_absolute():
        return f"{path} does not exist"
    return f"{path} does not exist in {working_folder() or 'the working folder, which was deleted'}"


def working_folder() -> Path | None:
    """The working folder; None where it was deleted."""
    try:
        return Path.cwd()
    except FileNotFoundError:
        return None


def look(path: Path, error: type[VeneerError]) -> None:
    """Find out whether something is at a path, so that this can be asked without an error. Arguments and errors as
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
