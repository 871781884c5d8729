"""The run to repeat: its results, its inputs, and whether the inputs still exist."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from veneer.config import RunConfig, parse
from veneer.errors import CheckpointError, listing, reading
from veneer.io.checkpoint import open_checkpoint
from veneer.io.digests import sha256
from veneer.run_folder import LOCK_FILE, RunFolder
from veneer.text.strict_json import to_text
from veneer.training.folder.locked_inputs import changed_inputs


@dataclass(frozen=True, slots=True)
class Original:
    """A finished run."""

    folder: Path
    lock: Mapping[str, Any]
    """Its `run.lock`."""
    ends: Sequence[tuple[int, int]]
    """Its schedules: the number of steps that each spanned, and the number after which it ended. At the end of each the
    run has a result; the result of the last one is compared."""
    weights: Path
    """The file that the new run's weights are compared with."""
    digests: Mapping[str, str | None]
    """The current SHA-256 of each file of its result, by name; None for a file that no longer exists."""

    @property
    def result(self) -> Mapping[str, str]:
        """The SHA-256 of each file of its result when it was written."""
        return dict(self.lock["result"])

    @property
    def damaged(self) -> list[str]:
        """The names of the files that the run wrote and that have changed since."""
        return [name for name, now in self.digests.items() if now != self.result.get(name)]

    def config(
        self, target: Path, model: str | Path | None, data: str | Path | None, eval_data: str | Path | None
    ) -> RunConfig:
        """The run's configuration, with another output folder and perhaps other paths of the inputs.

        Args:
            target: the folder of the new run.
            model: the current path of the base, if it was moved.
            data: the current path of the rows, if they were moved.
            eval_data: the current path of the evaluation rows, if they were moved.

        Raises:
            CheckpointError: the run has several sources of rows, and one file is given.
        """
        values = json.loads(to_text(self.lock["config"]))
        values["output"] = str(target)
        if model is not None:
            # A revision belongs to the name that it was given with; the files are compared with those of the run in any
            # case.
            values |= {"model": str(model), "revision": None}
        if data is not None and values["data"].get("sources"):
            raise CheckpointError(
                f"{self.folder} was trained on several sources, and --data names one file; put the files where "
                "data.sources names them"
            )
        run = RunFolder(self.folder)
        for key, moved, own in (("file", data, run.data_file), ("eval_file", eval_data, run.eval_data_file)):
            recorded = values["data"].get(key)
            if moved is not None:
                values["data"][key] = str(moved)
            elif recorded and Path(recorded).name == own.name and own.is_file() and not Path(recorded).is_file():
                # The run's rows are in its folder, which was moved.
                values["data"][key] = str(own)
        return parse(values, where=str(run.lock_file))

    def refuse_other_inputs(self, config: RunConfig) -> None:
        """Refuse a base, a tokenizer or rows that differ from those of the run, before anything is trained.

        Raises:
            CheckpointError: files differ; all are named.
        """
        recorded = RunFolder(self.folder).lock_file if config.model == self.lock["config"]["model"] else None
        problems = changed_inputs(self.lock, config, recorded)
        if not problems:
            tokenizer = open_checkpoint(config.model, revision=config.revision).tokenizer()
            if config.lora.new_tokens:
                tokenizer = tokenizer.with_tokens(config.lora.new_tokens)
            if tokenizer.digest() != self.lock["tokenizer"]:
                problems.append(
                    "tokenizer: is read differently now, from the same files (another version of a library)"
                )
        if problems:
            raise CheckpointError(
                f"{self.folder} cannot be reproduced, because its inputs have changed:\n{listing(problems)}\n"
                "Give the files that it was trained on; --model, --data and --eval-data set where they are now."
            )


def read_original(folder: Path, lock: Mapping[str, Any]) -> Original:
    """The results of a finished run.

    Raises:
        CheckpointError: its schedules are damaged, its weights no longer exist, or a file cannot be read.
    """
    ends = _schedule_ends(lock)
    found = RunFolder(folder).weights
    if not found:
        raise CheckpointError(
            f"{folder} has no file of weights any more, so there is nothing to compare with; restore what the run wrote"
        )
    weights = next(iter(found.values()))
    return Original(folder, lock, ends, weights, _digests_of(folder, {weights.name, *lock["result"]}))


def _schedule_ends(lock: Mapping[str, Any]) -> list[tuple[int, int]]:
    """The schedules of a run, in the form of `Original.ends`.

    Raises:
        CheckpointError: they are damaged.
    """
    recorded = lock.get("schedules")
    if recorded is None:
        return [(int(lock["config"]["train"]["steps"]), int(lock["config"]["train"]["steps"]))]
    try:
        parts = [(int(part["from_step"]), int(part["steps"])) for part in recorded]
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{LOCK_FILE}: its schedules are damaged: {error}") from error
    return [
        (steps, parts[number + 1][0] if number + 1 < len(parts) else steps) for number, (_, steps) in enumerate(parts)
    ]


def _digests_of(folder: Path, names: set[str]) -> dict[str, str | None]:
    """The digests of files of a run's result, in the form of `Original.digests`.

    Raises:
        CheckpointError: a file cannot be read.
    """
    files = {name: folder / name for name in sorted(names)}
    with reading(CheckpointError):
        return {name: sha256(file) if file.is_file() else None for name, file in files.items()}
