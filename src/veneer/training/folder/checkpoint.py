"""Training checkpoints: complete or absent, and verified before use.

A checkpoint is a folder `checkpoints/step-000050` with the files of the result (an adapter, or a model), the
optimiser's state, the position of the run, and `manifest.json` with the SHA-256 of every file. It is written under a
temporary name and renamed when all of it is on the disk, so that a kill at any instant leaves the earlier ones intact.
A damaged checkpoint is skipped with a note, and the one before it is used.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

from veneer.adapters.files.integrity import MANIFEST_FILE
from veneer.errors import CheckpointError, listing
from veneer.io.digests import sha256
from veneer.io.files import atomic_folder, remove_folder, remove_partial, write_text
from veneer.run_folder import RunFolder
from veneer.text.strict_json import to_text
from veneer.training.folder.optimizer_file import OPTIMIZER, PARTS, OneFile, StateFiles
from veneer.training.folder.progress import Progress, check_progress, is_count
from veneer.training.optimizers.base import Optimizer
from veneer.training.trainable import Trainable

STATE = "state.json"
EVALUATED = "evaluated.json"
"""The file with the position after the evaluation that was still due when the checkpoint was written."""
STEPS = "train.steps"
"""The key of an identity whose value may grow: a run can be made longer."""
MICRO_BATCH = "compute.micro_batch_tokens"
"""The key of an identity whose value may shrink: a run can continue with less memory."""
FREE = frozenset({"compute.recompute", "compute.device", "tracking.project", "tracking.mode"})
"""The keys of an identity that may change. Recomputation and trackers change no bit. Only the kind of a device counts,
which the key `processor` holds, and not its number."""

UNORDERED = frozenset({"target_modules", "exclude_modules", "modules_to_save", "layers_to_transform"})
"""The keys of an identity under `lora` that hold lists in which the order means nothing."""


class Companion(Protocol):
    """Something else that a run keeps in its checkpoints."""

    def save(self, folder: Path, step: int) -> None:
        """Write what a run needs to continue after the step, if it needs anything."""
        ...

    def restore(self, folder: Path, step: int) -> None:
        """Restore what `save` wrote.

        Raises:
            CheckpointError: the file is missing, or does not fit.
        """
        ...


class CheckpointStore:
    """The checkpoints of one run.

    Args:
        keep: the number of newest checkpoints to keep, in addition to the best by evaluation.
        identity: the values that must be equal for a resumption to be the same run (data digest, seed, rank, …).
        defaults: the values of settings that older checkpoints do not have, by key.
        base: a function that returns the SHA-256 of every file of the base model, by name. It may take a while, so it
            is called when the first checkpoint is written, and not before the first step. It returns None if a signal
            left no time for it.
        base_keys: the system's data about these files (`veneer.io.digests.file_key`), which identify them if they were
            not hashed.
        companion: something else to keep.
        state: the files of the optimiser's state, and who writes them.
    """

    def __init__(
        self,
        folder: RunFolder,
        *,
        keep: int,
        identity: Mapping[str, Any],
        defaults: Mapping[str, Any] = MappingProxyType({}),
        base: Callable[[], Mapping[str, str] | None] = dict,
        base_keys: Mapping[str, Sequence[int]] = MappingProxyType({}),
        companion: Companion | None = None,
        state: StateFiles | None = None,
    ):
        self.folder = folder
        self.keep = keep
        self.identity = identity
        self.defaults = defaults
        self._base = base
        self._base_keys = base_keys
        self._companion = companion
        self._state = state or OneFile()
        self._restored_base: Mapping[str, str] | None = None

    def save(self, progress: Progress, trainable: Trainable, optimizer: Optimizer) -> Path:
        """Write the checkpoint of `progress.step` and delete those beyond `keep`.

        Raises:
            OutputError: it cannot be written; the older checkpoints are unchanged.
            AdapterError, CheckpointError: a weight is not finite, or the base has changed since the run began; nothing
                is written.
        """
        target = self.folder.checkpoint(progress.step)
        if target.exists():
            self._state.begin(None)
            return target
        base = self.check_base()
        with atomic_folder(target) as folder:
            self._state.begin(folder)
            trainable.save(folder, base or {})
            self._state.save(folder, optimizer)
            if self._companion is not None:
                self._companion.save(folder, progress.step)
            known = {"unread_base": dict(self._base_keys)} if base is None else {"base": dict(base)}
            state = {"progress": asdict(progress), "identity": dict(self.identity), **known}
            (folder / STATE).write_text(to_text(state, indent=2, sort_keys=True) + "\n", encoding="utf-8")
            files = sorted(file for file in folder.rglob("*") if file.is_file())
            manifest = {str(file.relative_to(folder)): sha256(file) for file in files}
            (folder / MANIFEST_FILE).write_text(to_text(manifest, indent=2) + "\n", encoding="utf-8")
        self.prune(progress.best_step)
        return target

    def follow(self, trainable: Trainable, optimizer: Optimizer) -> None:
        """Write this process's part of the checkpoint that the first process saves, if it has a part.

        Raises:
            OutputError: it cannot be written.
            RankLost: another process is gone.
        """
        folder = self._state.awaited()
        if folder is not None:
            trainable.save(folder, {})
            self._state.save(folder, optimizer)

    def follow_restored(self, step: int, trainable: Trainable, optimizer: Optimizer) -> None:
        """Load this process's part of the checkpoint that the first process has restored.

        Args:
            step: the step of the checkpoint.
            trainable: receives the weights.
            optimizer: receives its state.

        Raises:
            CheckpointError: it does not fit this run.
        """
        folder = self.folder.checkpoint(step)
        trainable.restore(folder)
        self._state.load(folder, optimizer)

    def keep_evaluated(self, progress: Progress) -> None:
        """Record that the evaluation is made that was due when the checkpoint of `progress.step` was written. A file is
        added, and the checkpoint is sound at every moment.

        Raises:
            OutputError: a file cannot be written.
        """
        folder = self.folder.checkpoint(progress.step)
        write_text(folder / EVALUATED, to_text({"progress": asdict(progress)}, indent=2, sort_keys=True) + "\n")
        manifest = json.loads((folder / MANIFEST_FILE).read_text(encoding="utf-8"))
        manifest[EVALUATED] = sha256(folder / EVALUATED)
        write_text(folder / MANIFEST_FILE, to_text(manifest, indent=2) + "\n")

    def check_base(self) -> Mapping[str, str] | None:
        """The digests of the base model's files, which must be those that the run began with; None if a signal leaves
        no time to compute them.

        Raises:
            CheckpointError: files of the base have changed (all are named), or one cannot be read.
        """
        now, then = self._base(), self._restored_base
        if then is None or now is None:
            return now
        changed = [name for name in sorted(then.keys() | now.keys()) if then.get(name) != now.get(name)]
        if changed:
            raise CheckpointError(
                f"{self.folder.path} was trained with another base model. These files have changed since:\n"
                f"{listing(changed)}\n"
                "Nothing was written. Restore the original files and resume, or start again in another output folder."
            )
        return now

    def restore_best(self, best_step: int, trainable: Trainable) -> None:
        """Load the weights of the best evaluation into `trainable`.

        Args:
            best_step: the step whose weights are the best.
            trainable: receives the weights.

        Raises:
            CheckpointError: their checkpoint is missing or damaged.
        """
        folder = self.folder.checkpoint(best_step)
        fault = verify(folder) if folder.is_dir() else "it is missing"
        if fault is not None:
            raise CheckpointError(
                f"{folder} holds the weights that train.publish=best needs, and cannot be read: {fault}. "
                "With train.publish=last and --resume the newest weights are published"
            )
        trainable.restore(folder)

    def prune(self, best_step: int | None) -> None:
        """Delete all but the newest `keep` and the best."""
        steps = self.folder.checkpoint_steps()
        for step in set(steps[: -self.keep]) - {best_step}:
            remove_folder(self.folder.checkpoint(step))

    def restore(self, trainable: Trainable, optimizer: Optimizer, warn: Callable[[str], None]) -> Progress:
        """Load the newest sound checkpoint into `trainable` and `optimizer`.

        Args:
            trainable: receives the weights.
            optimizer: receives its state.
            warn: receives a message about every checkpoint that is skipped.

        Raises:
            CheckpointError: there is no checkpoint, or it belongs to a run with other settings (all differences are
                named).
        """
        remove_partial(self.folder.checkpoints)
        faults: dict[Path, str] = {}
        for step in reversed(self.folder.checkpoint_steps()):
            folder = self.folder.checkpoint(step)
            fault = verify(folder)
            if fault is None:
                progress = self._take(folder, step, trainable, optimizer, warn)
                self._discard(faults, warn)
                return progress
            faults[folder] = fault
        if not faults:
            raise CheckpointError(f"{self.folder.checkpoints}: there is no checkpoint to resume from")
        raise CheckpointError(
            f"{self.folder.checkpoints}: every checkpoint is damaged:\n"
            f"{listing(f'{folder.name}: {fault}' for folder, fault in faults.items())}\n"
            "Start a new run in another output folder."
        )

    def _take(
        self, folder: Path, step: int, trainable: Trainable, optimizer: Optimizer, warn: Callable[[str], None]
    ) -> Progress:
        """Load a sound checkpoint, if its run is this one.

        Raises:
            CheckpointError: it was written by another version, holds impossible values, or belongs to another run.
        """
        try:
            state = json.loads((folder / STATE).read_text(encoding="utf-8"))
            evaluated = folder / EVALUATED
            reached = json.loads(evaluated.read_text(encoding="utf-8")) if evaluated.is_file() else state
            identity, progress = _object(state, "identity"), Progress(**_object(reached, "progress"))
            base = _object(state, "base") if state.get("base") is not None else None
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise CheckpointError(f"{folder / STATE} was written by another version of veneer: {error}") from error
        check_progress(progress, step, identity.get(STEPS), folder / STATE)
        self._check_identity(identity, folder)
        steps_then, steps = identity.get(STEPS), self.identity.get(STEPS)
        if is_count(steps_then) and not progress.schedules:
            progress.schedules = [[0, steps_then]]  # of versions that did not record it
        if steps_then != steps:
            longer = f"the run is now longer: {steps:,} steps instead of {steps_then:,}"
            warn(f"{longer}, scheduled for {steps:,} from here on")
        most_then, most = identity.get(MICRO_BATCH), self.identity.get(MICRO_BATCH)
        if is_count(most_then) and is_count(most) and most < (progress.micro_batch_tokens(step + 1) or most_then):
            progress.shrink(step + 1, most, before=most_then)
            warn(f"micro-batches have at most {most:,} tokens from step {step + 1} on")
        # Checkpoints of versions that did not digest the whole base have no digests.
        self._restored_base = base
        unread = state.get("unread_base")
        if unread is not None and unread != {name: list(key) for name, key in self._base_keys.items()}:
            warn(
                "the base model's files were not yet hashed when the run stopped, and have changed since; only "
                "the size and the first and last megabyte of each file were compared"
            )
        trainable.restore(folder)
        self._state.load(folder, optimizer)
        if self._companion is not None:
            self._companion.restore(folder, progress.step)
        return progress

    def _discard(self, faults: dict[Path, str], warn: Callable[[str], None]) -> None:
        """Delete damaged checkpoints, so that the run can write them again and `prune` counts only sound ones."""
        for folder, fault in faults.items():
            warn(f"checkpoint {folder} is damaged ({fault}) and was deleted; the one before it is used")
            remove_folder(folder)

    def _check_identity(self, saved: Mapping[str, Any], folder: Path) -> None:
        """Refuse settings or data that differ from those of the run to resume."""
        then = {**self.defaults, **saved}
        changed = [
            f"{key}: {then.get(key)!r} then, {self.identity.get(key)!r} now"
            for key in sorted(saved.keys() | self.identity.keys())
            if then.get(key) != self.identity.get(key) and not _may_change(key, then.get(key), self.identity.get(key))
        ]
        if changed:
            raise CheckpointError(
                f"{folder} belongs to a run with other settings or data:\n{listing(changed)}\n"
                "Resume with the settings of that run, or start a new run in another output folder."
            )


def _object(state: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A member of a checkpoint's state.

    Raises:
        ValueError: it is not an object.
    """
    value = state[name]
    if not isinstance(value, dict):
        raise ValueError(f"{name} is not an object")
    return value


def _may_change(key: str, then: object, now: object) -> bool:
    """Whether a run can be resumed although a value of its identity has changed."""
    if key in FREE:
        return True
    if key.removeprefix("lora.") in UNORDERED and isinstance(then, list) and isinstance(now, list):
        return sorted(then, key=str) == sorted(now, key=str)
    return is_count(then) and is_count(now) and ((key == STEPS and now > then) or (key == MICRO_BATCH and now < then))


def best_step_of(folder: Path) -> int | None:
    """The step of the best weights, as recorded in a checkpoint that this run has written."""
    best: int | None = json.loads((folder / STATE).read_text(encoding="utf-8"))["progress"]["best_step"]
    return best


def verify(folder: Path) -> str | None:
    """What is wrong with a checkpoint, or None. Every file in its manifest must exist and have the recorded digest.

    Raises:
        CheckpointError: the system does not allow a file to be read, which does not mean that the checkpoint is
            damaged.
    """
    try:
        return _fault(folder)
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return f"{MANIFEST_FILE} names an impossible file"
        raise CheckpointError(f"{error.filename or folder}: cannot be read: {error.strerror or error}") from error


def _fault(folder: Path) -> str | None:
    try:
        manifest = json.loads((folder / MANIFEST_FILE).read_text(encoding="utf-8"))
    except (FileNotFoundError, IsADirectoryError, ValueError, RecursionError):
        return f"{MANIFEST_FILE} is missing or broken"
    if not isinstance(manifest, dict) or STATE not in manifest or not any(map(_of_optimizer, manifest)):
        return f"{MANIFEST_FILE} is incomplete"
    if not all(_plain_name(name) for name in manifest):
        return f"{MANIFEST_FILE} names files outside the checkpoint"
    for name, digest in manifest.items():
        file = folder / name
        if not file.is_file():
            return f"{name} is missing"
        if sha256(file) != digest:
            return f"{name} has changed"
    return None


def _of_optimizer(name: str) -> bool:
    """Whether a name in a manifest is that of the optimiser's state, or of a part of it."""
    return name == OPTIMIZER or name.startswith(f"{PARTS}/")


def _plain_name(name: str) -> bool:
    """Whether a name in a manifest is that of a file inside the checkpoint's folder."""
    parts = Path(name).parts
    return bool(parts) and "\0" not in name and ".." not in parts and not Path(name).is_absolute()
