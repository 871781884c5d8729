"""Repeats a run and says whether the bytes are the same: `veneer reproduce` and the API call `reproduce`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from veneer.arguments import check_types
from veneer.config import RunConfig
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
from veneer.io.digests import sha256
from veneer.io.files import remove_folder, reported, write_text
from veneer.machine.hardware import resolve_device
from veneer.reproduction.differences import TensorDifference, environments, first_step, tensors
from veneer.reproduction.original import Original, read_original
from veneer.run_folder import LOCK_FILE, RunFolder
from veneer.runtime.signals import interrupts_noted
from veneer.text.counting import count_of
from veneer.text.strict_json import to_text
from veneer.training.folder.lock import environment
from veneer.training.folder.locked_inputs import read_lock
from veneer.training.run import train

REPRODUCED = ".reproduced"
"""The end of the folder's name if the user gave none."""
MARK_FILE = "reproduces.json"
"""The file that marks a folder as a reproduction: a copy of the run has the same settings."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reproduction:
    """The comparison of a run with its repetition."""

    run: str
    output: str | None
    """The new run's folder; None if it was the same to the byte and the user had not asked for it."""
    same: bool
    """Whether the weights have the same bytes, and the run's other files are unchanged."""
    environment: list[str]
    """The differences between this machine and its libraries and those of the first run."""
    tensors: int
    different: list[TensorDifference]
    """Tensors that differ, the largest difference first."""
    first_step: int | None
    """The first step with a different loss."""
    notes: list[str]

    def to_json(self) -> dict[str, Any]:
        """The result as plain values."""
        return asdict(self)

    def lines(self) -> list[str]:
        """The result for people, a sentence a line."""
        said = [*self.notes]
        if self.environment:
            said.append(f"different now:\n{listing(self.environment)}")
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
    """Repeat a finished run, in one piece, and compare the results.

    A reproduction that was stopped or killed continues from its newest checkpoint when it is called again. One that has
    ended is only compared again.

    Args:
        run: the folder of the run, with `run.lock`.
        output: the new run's folder; by default RUN.reproduced, which is kept only if something differs.
        model: the current path of the base, if it was moved.
        data: the current path of the rows, if they were moved.
        eval_data: the current path of the evaluation rows, if they were moved.
        subscribers: called with every event of the new run, after a warning of differences in the environment.
        stop: called after every step; true ends the run.

    Raises:
        CheckpointError: there is no usable `run.lock`, the run's weights no longer exist or cannot be read, or base,
            tokenizer or data have changed since training: all are named, and nothing is trained.
        OutputError: the output folder exists and holds no reproduction of this run, or is the run's own.
        Interrupted: `stop` or a signal ended the run.
        VeneerError: any error of `train`.
        KeyboardInterrupt: Ctrl-C has ended the new run, with a checkpoint, as in `train`.
    """
    check_types(reproduce, locals())
    folder = Path(run)
    lock = read_lock(folder)
    target = Path(output) if output is not None else _beside(folder)
    _refuse_the_run_itself(folder, target)
    mark = _Mark(target / MARK_FILE, to_text({LOCK_FILE: sha256(RunFolder(folder).lock_file)}) + "\n")
    original = read_original(folder, lock)
    config = original.config(target, model, data, eval_data)
    done = _is_done(target, config, original.ends, mark)
    reached = None if done else _reached(target, mark)
    original.refuse_other_inputs(config)
    differing = environments(lock, environment(resolve_device(config.compute.device), config))
    emit = broadcast(subscribers)
    if differing:
        otherwise = f"the environment differs here, so the bytes may differ:\n{listing(differing)}"
        emit(Note(message=otherwise, level=Level.WARNING))
    if original.damaged:
        damaged = listing([str(folder / name) for name in original.damaged])
        emit(Note(message=f"changed since the run wrote it:\n{damaged}", level=Level.WARNING))
    with interrupts_noted():
        try:
            if not done:
                _train_again(config, original, reached, broadcast([mark.put, emit]), stop)
        except Interrupted as error:
            raise Interrupted(f"the reproduction in {target} was stopped; the same command continues it") from error
    found = _compared(original, target, differing)
    if found.same and output is None:
        remove_folder(target)
    else:
        found = replace(found, output=str(target))
    emit(Result(verb="reproduce", values=found.to_json()))
    return found


def _train_again(
    config: RunConfig,
    original: Original,
    reached: int | None,
    emit: Subscriber,
    stop: Callable[[], bool],
) -> None:
    """Train as the run did: in one piece, or in as many pieces as it had schedules, and with its micro-batch sizes.
    `reached` is the result of `_reached`."""
    left = [part for part in original.ends if part[1] > (reached or 0)] or original.ends[-1:]
    for number, (steps, end) in enumerate(left):
        until = _Until(end, stop)
        try:
            train(
                _over(config, steps),
                resume=number > 0 or reached is not None,
                emit=broadcast([emit, until.note]),
                stop=until.reached,
                micro_batches=original.lock.get("micro_batches", []),
            )
        except Interrupted:
            # The last part is done when its result is written. A signal can come after its last step.
            if until.step != end or number == len(left) - 1:
                raise


@dataclass(frozen=True, slots=True)
class _Mark:
    """Marks a folder with the run that it holds a reproduction of."""

    file: Path
    text: str

    @property
    def there(self) -> bool:
        """Whether the folder holds a reproduction of this run."""
        with reported(self.file):
            return self.file.is_file() and self.file.read_bytes() == self.text.encode()

    def put(self, event: Event) -> None:
        """Mark the folder as soon as its log has an event: a run that is refused before leaves no folder."""
        if not isinstance(event, StageBegun | StageProgress | StageEnded) and not self.file.exists():
            write_text(self.file, self.text)


@dataclass(slots=True)
class _Until:
    """Ends a run after a step, or when the user stops it."""

    end: int
    stop: Callable[[], bool]
    step: int = 0

    def note(self, event: Event) -> None:
        if isinstance(event, StepDone | StepSkipped):
            self.step = event.step

    def reached(self) -> bool:
        return self.stop() or self.step == self.end


def _is_done(target: Path, config: RunConfig, ends: Sequence[tuple[int, int]], mark: _Mark) -> bool:
    """Whether a folder holds the result of the reproduction. `ends` are the run's schedules (`Original.ends`).

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
    """The step that an unfinished reproduction in a folder has reached: 0 if it has no checkpoint. None if the folder
    does not exist.

    Raises:
        OutputError: something else is there.
    """
    if not target.exists():
        return None
    folder = RunFolder(target)
    # A reproduction that was killed before its first event has no mark yet.
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
    """The run with a schedule over so many steps."""
    return config.changed("train", {"steps": steps, "epochs": None})


def _compared(original: Original, target: Path, differing: list[str]) -> Reproduction:
    """The comparison of the run's weights with those of the new run."""
    folder, weights, name = original.folder, original.weights, original.weights.name
    now, then, recorded = sha256(target / name), original.digests[name], original.result.get(name)
    others = [other for other in original.damaged if other != name]
    notes = [f"{folder / other} has changed since the run wrote it" for other in others]
    count, different = 0, list[TensorDifference]()
    try:
        count, different = tensors(weights, target / name)
    except CheckpointError as error:
        if then == recorded:
            raise
        notes.append(str(error))
    if then != recorded:
        notes.append(f"{weights} has changed since the run wrote it: compared with its current content")
        if now == recorded:
            notes.append("the new result equals what the run wrote originally")
    if now == then and others:
        notes.append("the weights have the same bytes")
    if now != then and count and not different:
        notes.append("the same numbers in a file with other bytes")
    step = None if now == then else first_step(folder, target)
    return Reproduction(
        run=str(folder),
        output=None,
        same=now == then and not others,
        environment=differing,
        tensors=count,
        different=different,
        first_step=step,
        notes=notes,
    )


def _beside(folder: Path) -> Path:
    """The folder of the new run if the user gave none. `.` and `..` stand for folders with other names."""
    named = folder if folder.name not in ("", "..") else folder.resolve()
    return named.with_name(named.name + REPRODUCED)
