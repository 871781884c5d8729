"""Make a run again and say whether the same bytes came out: `reproduce` is what `veneer reproduce` and the API call."""

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
from veneer.text.counting import count_of
from veneer.text.strict_json import to_text
from veneer.training.folder.lock import environment
from veneer.training.folder.locked_inputs import read_lock
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
        otherwise = f"computed otherwise here, so that other bytes may come out:\n{listing(differing)}"
        emit(Note(message=otherwise, level=Level.WARNING))
    if original.damaged:
        damaged = listing([str(folder / name) for name in original.damaged])
        emit(Note(message=f"not what the run wrote any more:\n{damaged}", level=Level.WARNING))
    try:
        if not done:
            _train_again(config, original, reached, broadcast([mark.put, emit]), stop)
    except Interrupted as error:
        raise Interrupted(f"the reproduction in {target} was stopped; the same command goes on with it") from error
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
    """Train as the run did: in one piece, or in as many as it had schedules, and in micro-batches of its sizes.
    `reached` is as `_reached` says."""
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
    return config.changed("train", {"steps": steps, "epochs": None})


def _compared(original: Original, target: Path, differing: list[str]) -> Reproduction:
    """The run's weights beside those of the new run."""
    folder, weights, name = original.folder, original.weights, original.weights.name
    now, then, recorded = sha256(target / name), original.digests[name], original.result.get(name)
    others = [other for other in original.damaged if other != name]
    notes = [f"{folder / other} is not what the run wrote any more" for other in others]
    count, different = 0, list[TensorDifference]()
    try:
        count, different = tensors(weights, target / name)
    except CheckpointError as error:
        if then == recorded:
            raise
        notes.append(str(error))
    if then != recorded:
        notes.append(f"{weights} is not what the run wrote any more: compared with what it is now")
        if now == recorded:
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
