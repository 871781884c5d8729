"""Make a run again and say whether the same bytes came out: `reproduce` is what `veneer reproduce` and the API call."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from veneer.arguments import check_types
from veneer.config import RunConfig, parse
from veneer.counting import count_of
from veneer.errors import CheckpointError, Interrupted, OutputError, listing
from veneer.events import (
    Event,
    Level,
    Note,
    Result,
    StageBegun,
    StageEnded,
    StageProgress,
    StepDone,
    StepSkipped,
    Subscriber,
    broadcast,
)
from veneer.hardware import resolve_device
from veneer.io.checkpoint import open_checkpoint
from veneer.io.files import remove_folder, reported, sha256, write_text
from veneer.reproduction.differences import TensorDifference, environments, first_step, tensors
from veneer.run_folder import LOCK_FILE, RunFolder
from veneer.strict_json import to_text
from veneer.training.lock import environment
from veneer.training.locked_inputs import changed_inputs, read_lock
from veneer.training.run import train

REPRODUCED = ".reproduced"
"""End of the name of the folder where nobody gave one."""
MARK_FILE = "reproduces.json"
"""The file by which a folder is known as a reproduction: a copy of the run has the same settings."""


@dataclass(frozen=True, slots=True)
class Reproduction:
    """A run beside the run that was to be the same."""

    run: str
    output: str | None
    """The new run's folder; None where it was the same to the byte and nobody had asked for it."""
    same: bool
    """Whether the weights are the same bytes, and the run's other files still what it wrote."""
    environment: list[str]
    """What differs between this machine and its libraries and those of the first run."""
    tensors: int
    different: list[TensorDifference]
    """Tensors that differ, the largest difference first."""
    first_step: int | None
    """The first step whose loss was another one."""
    notes: list[str]

    def to_json(self) -> dict[str, Any]:
        """The result as plain values."""
        return asdict(self)

    def lines(self) -> list[str]:
        """What there is to say, a sentence a line."""
        said = [*self.notes]
        if self.environment:
            said.append(f"other than then:\n{listing(self.environment)}")
        if self.same:
            return [*said, f"the same bytes: {count_of(self.tensors, 'tensor')}"]
        if not self.different:
            return said
        at = "" if self.first_step is None else f", first seen in the loss of step {self.first_step}"
        named = (
            f"{one.name}: {one.numbers:,} of {one.of:,} numbers, by up to {one.largest:.3g}" for one in self.different
        )
        return [*said, f"{len(self.different)} of {count_of(self.tensors, 'tensor')} differ{at}:\n{listing(named)}"]


def reproduce(
    run: str | Path,
    *,
    output: str | Path | None = None,
    model: str | Path | None = None,
    data: str | Path | None = None,
    eval_data: str | Path | None = None,
    subscribers: Sequence[Subscriber] = (),
    stop: Callable[[], bool] = lambda: False,
) -> Reproduction:
    """Make a finished run again, in one piece, and compare what comes out.

    A reproduction that was stopped or killed goes on when it is asked for again, from its newest checkpoint. One that
    has ended is compared again.

    Args:
        run: its folder, with `run.lock`.
        output: the new run's folder; by default RUN.reproduced, which stays only where something differs.
        model: where the base is now, if it was moved.
        data: where the rows are now, if they were moved.
        eval_data: where the evaluation rows are now, if they were moved.
        subscribers: called with every event of the new run, after a warning of what computes otherwise here.
        stop: asked after every step.

    Raises:
        CheckpointError: there is no usable `run.lock`, or the run's weights are not there any more or cannot be read,
            or base, tokenizer or data are not what was trained from: all are named, and nothing is trained.
        OutputError: the output folder exists, and holds no reproduction of this run, or is the run's own.
        Interrupted: `stop` or a signal asked for it.
        VeneerError: whatever `train` raises.
    """
    check_types(reproduce, locals())
    folder = Path(run)
    lock = read_lock(folder)
    moved = {"model": model, "data.file": data, "data.eval_file": eval_data}
    target = Path(output) if output is not None else _beside(folder)
    _refuse_the_run_itself(folder, target)
    mark = _Mark(target / MARK_FILE, to_text({LOCK_FILE: sha256(RunFolder(folder).lock_file)}) + "\n")
    ends = schedule_ends(lock)
    weights = _weights_of(folder)
    digests = _digests_of(folder, {weights.name, *lock["result"]})
    config = _config(lock, folder, moved, target)
    done = _is_done(target, config, ends, mark)
    reached = None if done else _reached(target, mark)
    refuse_other_inputs(lock, config, folder)
    device = resolve_device(config.compute.device)
    differing = environments(lock, environment(device, config))
    emit = broadcast(subscribers)
    if differing:
        otherwise = f"computed otherwise here, so that other bytes may come out:\n{listing(differing)}"
        emit(Note(message=otherwise, level=Level.WARNING))
    damaged = [str(folder / name) for name, now in digests.items() if now != lock["result"].get(name)]
    if damaged:
        emit(Note(message=f"not what the run wrote any more:\n{listing(damaged)}", level=Level.WARNING))
    try:
        if not done:
            _train_again(config, ends, reached, lock.get("micro_batches", []), [mark.put, *subscribers], stop)
    except Interrupted as error:
        raise Interrupted(f"the reproduction in {target} was stopped; the same command goes on with it") from error
    found = _compared(lock, weights, digests, target, differing)
    if found.same and output is None:
        remove_folder(target)
    else:
        found = replace(found, output=str(target))
    emit(Result(verb="reproduce", values=found.to_json()))
    return found


def schedule_ends(lock: Mapping[str, Any]) -> list[tuple[int, int]]:
    """The schedules of a run: the number of steps that each was laid over, and after how many it was left.

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


def _train_again(
    config: RunConfig,
    ends: Sequence[tuple[int, int]],
    reached: int | None,
    micro_batches: Sequence[Sequence[int]],
    subscribers: Sequence[Subscriber],
    stop: Callable[[], bool],
) -> None:
    """Train as the run did: in one piece, or in as many as it had schedules, and in micro-batches of its sizes.
    `reached` is as `_reached` says."""
    left = [part for part in ends if part[1] > (reached or 0)] or ends[-1:]
    for number, (steps, end) in enumerate(left):
        until = _Until(end, stop)
        try:
            train(
                _over(config, steps),
                resume=number > 0 or reached is not None,
                subscribers=[*subscribers, until.note],
                stop=until.reached,
                micro_batches=micro_batches,
            )
        except Interrupted:
            # The last part is done when its result is written. A signal can come after its last step.
            if until.step != end or number == len(left) - 1:
                raise


@dataclass(frozen=True, slots=True)
class _Mark:
    """Says of a folder which run it holds a reproduction of."""

    file: Path
    text: str

    @property
    def there(self) -> bool:
        """Whether the folder holds one of this run."""
        with reported(self.file):
            return self.file.is_file() and self.file.read_bytes() == self.text.encode()

    def put(self, event: Event) -> None:
        """Mark the folder as soon as its log has an event: one that is refused before leaves no folder."""
        if not isinstance(event, StageBegun | StageProgress | StageEnded) and not self.file.exists():
            write_text(self.file, self.text)


@dataclass(slots=True)
class _Until:
    """Ends a run after a step, or where the user stops it."""

    end: int
    stop: Callable[[], bool]
    step: int = 0

    def note(self, event: Event) -> None:
        if isinstance(event, StepDone | StepSkipped):
            self.step = event.step

    def reached(self) -> bool:
        return self.stop() or self.step == self.end


def _is_done(target: Path, config: RunConfig, ends: Sequence[tuple[int, int]], mark: _Mark) -> bool:
    """Whether a folder holds the result of the reproduction. `ends` are the run's schedules; at the end of each the
    run has a result, and what it has at the last one is compared.

    Raises:
        OutputError: another run, or a copy of this one, has ended there.
        CheckpointError: its `run.lock` is damaged.
    """
    folder = RunFolder(target)
    if not folder.lock_file.exists():
        return False
    if not mark.there:
        raise _taken(target)
    recorded = read_lock(target)["config"]
    if recorded["train"]["steps"] in [steps for steps, _ in ends[:-1]]:
        return False
    if not folder.weights or recorded != _over(config, ends[-1][0]).model_dump(mode="json"):
        raise _taken(target)
    return True


def _reached(target: Path, mark: _Mark) -> int | None:
    """The step that a reproduction in a folder has reached which has not ended: 0 where it has no checkpoint. None
    where nothing is there.

    Raises:
        OutputError: something else is there.
    """
    if not target.exists():
        return None
    folder = RunFolder(target)
    # One that was killed before its first event has no mark yet.
    unmarked = folder.events_file.is_file() and not folder.events_file.stat().st_size
    if not (mark.there or unmarked):
        raise _taken(target)
    return max(folder.checkpoint_steps(), default=0)


def _refuse_the_run_itself(folder: Path, target: Path) -> None:
    with reported(target):
        if target.exists() and target.samefile(folder):
            raise OutputError(f"{target} is the run itself; give another --output, or leave it out")


def _taken(target: Path) -> OutputError:
    return OutputError(f"{target} exists already; give another --output, or delete it")


def _over(config: RunConfig, steps: int) -> RunConfig:
    """The run with its schedule over so many steps."""
    return config.model_copy(update={"train": config.train.model_copy(update={"steps": steps, "epochs": None})})


def _config(lock: Mapping[str, Any], folder: Path, moved: Mapping[str, str | Path | None], target: Path) -> RunConfig:
    """The run's configuration, written elsewhere and perhaps read from elsewhere."""
    values = json.loads(to_text(lock["config"]))
    values["output"] = str(target)
    if moved["model"] is not None:
        # A revision belongs to the name that it was given with; the files are compared with those of the run anyway.
        values |= {"model": str(moved["model"]), "revision": None}
    run = RunFolder(folder)
    for key, own in (("file", run.data_file), ("eval_file", run.eval_data_file)):
        recorded = values["data"].get(key)
        if moved[f"data.{key}"] is not None:
            values["data"][key] = str(moved[f"data.{key}"])
            if key == "file" and values["data"].get("sources"):
                raise CheckpointError(
                    f"{folder} was trained on several sources, and --data names one file; put the files where "
                    "data.sources names them"
                )
        elif recorded and Path(recorded).name == own.name and own.is_file() and not Path(recorded).is_file():
            # The run's rows lie in its folder, which was moved.
            values["data"][key] = str(own)
    return parse(values, where=str(run.lock_file))


def refuse_other_inputs(lock: Mapping[str, Any], config: RunConfig, folder: Path) -> None:
    """Refuse a base, a tokenizer or rows that are not those of the run, before anything is trained.

    Raises:
        CheckpointError: naming every file that differs.
    """
    problems = changed_inputs(lock, config)
    if not problems:
        tokenizer = open_checkpoint(config.model, revision=config.revision).tokenizer()
        if config.lora.new_tokens:
            tokenizer = tokenizer.with_tokens(config.lora.new_tokens)
        if tokenizer.digest() != lock["tokenizer"]:
            problems.append(
                "tokenizer: is read otherwise than then, from the same files (another version of a library)"
            )
    if problems:
        raise CheckpointError(
            f"{folder} cannot be reproduced, since it was trained from something else:\n{listing(problems)}\n"
            "Give the files that it was trained from; --model, --data and --eval-data say where they are now."
        )


def _compared(
    lock: Mapping[str, Any], weights: Path, digests: Mapping[str, str | None], target: Path, differing: list[str]
) -> Reproduction:
    """The run's weights beside those of the new run. `digests` are those that the files of its result have now."""
    folder, name = weights.parent, weights.name
    now, then, recorded = sha256(target / name), digests[name], dict(lock["result"])
    others = [other for other, digest in digests.items() if other != name and digest != recorded.get(other)]
    notes = [f"{folder / other} is not what the run wrote any more" for other in others]
    count, different = 0, list[TensorDifference]()
    try:
        count, different = tensors(weights, target / name)
    except CheckpointError as error:
        if then == recorded.get(name):
            raise
        notes.append(str(error))
    if then != recorded.get(name):
        notes.append(f"{weights} is not what the run wrote any more: compared with what it is now")
        if now == recorded.get(name):
            notes.append("what came out is what the run wrote then")
    if now == then and others:
        notes.append("the weights are the same bytes")
    if now != then and count and not different:
        notes.append("the same numbers in a file of other bytes")
    step = None if now == then else first_step(folder, target)
    return Reproduction(str(folder), None, now == then and not others, differing, count, different, step, notes)


def _beside(folder: Path) -> Path:
    """The folder of the new run where nobody gave one. `.` and `..` stand for folders whose names end otherwise."""
    named = folder if folder.name not in ("", "..") else folder.resolve()
    return named.with_name(named.name + REPRODUCED)


def _weights_of(folder: Path) -> Path:
    """The file with which the new run's weights are compared. Raises CheckpointError where it is not there any more."""
    found = RunFolder(folder).weights
    if not found:
        raise CheckpointError(
            f"{folder} has no file of weights any more: there is nothing to compare with; put back what the run wrote"
        )
    return next(iter(found.values()))


def _digests_of(folder: Path, names: set[str]) -> dict[str, str | None]:
    """The SHA-256 of files of a run's result as they are now; None of one that is not there any more.

    Raises:
        CheckpointError: one cannot be read.
    """
    files = {name: folder / name for name in sorted(names)}
    try:
        return {name: sha256(file) if file.is_file() else None for name, file in files.items()}
    except OSError as error:
        raise CheckpointError(f"{error.filename}: cannot be read: {error.strerror or error}") from error
