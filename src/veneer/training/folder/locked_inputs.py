"""The inputs that `run.lock` records for a run, read again and compared with the files as they are now."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from veneer.config import RunConfig
from veneer.data.files.sources import keys_then, run_files
from veneer.errors import CheckpointError, DataError, reading
from veneer.io.checkpoint import open_checkpoint
from veneer.io.digests import file_digest
from veneer.run_folder import RunFolder
from veneer.training.folder.lock import FORMAT, data_files
from veneer.training.from_adapter import adapter_digests
from veneer.training.teaching.teacher import teacher_digests

PARTS = (
    *("versions", "hardware", "base", "base.files", "data", "data.files"),
    *("config", "config.train", "config.data", "result"),
)
"""The parts of a lock that have parts themselves, by dotted key."""


def read_lock(folder: Path) -> dict[str, Any]:
    """The content of a run's `run.lock`.

    Raises:
        CheckpointError: it is missing, cannot be read, is damaged, or has the format of another version.
    """
    path = RunFolder(folder).lock_file
    try:
        lock = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise CheckpointError(
            f"{path} is missing: give the folder of a finished run (an interrupted one has only "
            "checkpoints; resume it with `veneer train --resume`)"
        ) from error
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error
    damaged = _damaged(lock)
    if damaged:
        raise CheckpointError(f"{path} is damaged, or of another version of veneer: {', '.join(damaged)}")
    return dict(lock)


def _damaged(lock: Any) -> list[str]:
    """The parts of a lock that are missing or have a wrong type."""
    damaged = [key for key in PARTS if not isinstance(_part(lock, key), dict)]
    damaged += [] if isinstance(_part(lock, "tokenizer"), str) else ["tokenizer"]
    return damaged if _part(lock, "format") == FORMAT else ["format", *damaged]


def _part(value: Any, key: str) -> Any:
    """The value of a dotted key; None if there is none."""
    for name in key.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value


def recorded_files(run: RunFolder) -> frozenset[str]:
    """The keys of the files that a run was trained on; empty if it has no `run.lock` yet.

    Raises:
        CheckpointError: see `read_lock`.
    """
    return frozenset(read_lock(run.path)["data"]["files"]) if run.lock_file.is_file() else frozenset()


def changed_inputs(lock: Mapping[str, Any], config: RunConfig, named_by: Path | None = None) -> list[str]:
    """The files of base, adapter, teacher and rows that have changed since the run was trained, a line for each.

    Args:
        lock: the lock of the run.
        config: the configuration, which names the current files.
        named_by: the record that names the base; None if the user named it.

    Raises:
        VeneerError: a file that it names no longer exists.
    """
    checkpoint = open_checkpoint(config.model, revision=config.revision, named_by=named_by)
    base = {file.name: file_digest(file) for file in checkpoint.files()}
    changes = changed_files("base", lock["base"]["files"], base)
    changes += changed_files("adapter", dict(lock.get("adapter", {})), adapter_digests(config))
    changes += changed_files("distillation", dict(lock.get("teacher", {})), teacher_digests(config))
    files, recorded = data_files(config), lock["data"]["files"]
    then = keys_then(files, recorded)
    now = {then[key]: file_digest(file) for key, file in files.items() if file.is_file()}
    return changes + changed_files("data", recorded, now)


def changed_evaluation_files(run: RunFolder, config: RunConfig) -> list[str]:
    """The files with a run's evaluation rows that have changed since it read them, a line for each; empty if it has no
    `run.lock` yet. Files that match a pattern only since then are left out.

    Raises:
        DataError: a pattern no longer matches a file, a dataset is not available, or a file cannot be read.
        CheckpointError: see `read_lock`.
    """
    if not run.lock_file.is_file() or not config.data.evaluates:
        return []
    recorded = read_lock(run.path)["data"]["files"]
    files = run_files(config.data).only(recorded)
    then = keys_then(files.by_key, recorded)
    own = {then[file.key]: file.path for file in files.eval or files.train}
    with reading(DataError):
        now = {key: file_digest(path) for key, path in own.items() if path.is_file()}
    return changed_files("data", {key: recorded[key] for key in own}, now)


def changed_files(what: str, then: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Files that have changed, a line for each.

    Args:
        what: the kind of the files.
        then: the old digest of each file, by name.
        now: the current digest of each file, by name.
    """
    changes = [f"{what} {name}: is not there any more" for name in then if name not in now]
    changes += [f"{what} {name}: has changed" for name in then if name in now and now[name] != then[name]]
    return changes + [f"{what} {name}: is new" for name in now if name not in then]
