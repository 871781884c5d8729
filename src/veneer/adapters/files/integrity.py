"""Whether the files of an adapter are those that were written: a run and each of its checkpoints keep the digests."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from veneer.errors import AdapterError
from veneer.io.digests import file_digest

LOCK_FILE = "run.lock"
"""The file of a finished run with all that its bytes follow from, and the digests of its result."""
MANIFEST_FILE = "manifest.json"
"""The file of a checkpoint with the digests of its other files."""


def check_unchanged(directory: Path, name: str, digest: Callable[[Path], str] = file_digest) -> None:
    """Refuse a file of an adapter that has changed since its run wrote it. PEFT's adapters have no digests.

    Args:
        directory: the adapter's folder.
        name: the file in it.
        digest: a function that returns the SHA-256 of a file.

    Raises:
        AdapterError: the file has changed, or the record of its digest is damaged.
    """
    for record, remedy in (
        (LOCK_FILE, "train again, or use a checkpoint of the run"),
        (MANIFEST_FILE, "use another checkpoint of the run"),
    ):
        written = recorded_digests(directory, record).get(name)
        try:
            changed = written is not None and digest(directory / name) != written
        except FileNotFoundError:
            return  # The code that reads it says what is missing.
        except OSError as error:
            raise AdapterError(f"{directory / name}: cannot be read: {error.strerror or error}") from error
        if changed:
            raise AdapterError(
                f"{directory / name} has changed since it was written: its SHA-256 is not the one in {record}. Put the "
                f"file back from a copy, {remedy}; if it was changed on purpose, delete {directory / record}"
            )


def recorded_digests(directory: Path, record: str) -> dict[str, str]:
    """The digests of an adapter's files, by name, as one of its records has them; empty if there is no record.

    Raises:
        AdapterError: the record is damaged.
    """
    content = read_record(directory / record)
    if content is None:
        return {}
    digests = content.get("result") if record == LOCK_FILE else content
    if not isinstance(digests, dict):
        raise _damaged(directory / record, "it has no digests of the result")
    return {str(name): str(digest) for name, digest in digests.items()}


def read_record(path: Path) -> dict[str, Any] | None:
    """The content of a JSON object in an adapter's folder, or None if there is no such file.

    Raises:
        AdapterError: the file is damaged, or cannot be read.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise AdapterError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise _damaged(path, str(error)) from error
    if not isinstance(content, dict):
        raise _damaged(path, "it is no object")
    return content


def _damaged(path: Path, why: str) -> AdapterError:
    return AdapterError(
        f"{path} is damaged, so that the adapter cannot be checked against it: {why}. Put the file back from a copy, "
        "or delete it to use the adapter unchecked"
    )
