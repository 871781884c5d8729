"""What happens while a verb works, as typed events: one vocabulary for all verbs.

Every public function that tells something takes `subscribers`, each of which is called with every event, and makes one
of them by `broadcast`. Whatever is below takes that one, as `emit`. The terminal is a subscriber
(`veneer.screens.events`), `--json` is another, and a run's `events.jsonl` (`veneer.event_log`) is written in the same
form: one line of JSON for each event.

- Stages (`StageBegun`, `StageProgress`, `StageEnded`): work that takes a while, with rate and time left. They show
  progress to people, and are not written to `events.jsonl`.
- `Note`: a sentence for the user, a note or a warning.
- Training: `StepBudget`, `RunStarted`, `StepDone`, `StepSkipped`, `Evaluated`, `CheckpointSaved`, `MicroBatchHalved`,
  `RunFinished`.
- Several runs, in a comparison or a sweep: `RunsJoined`, `RunDone`, `RunFailed`, and `RunEvent`, which has an event of
  one of them.
- `Result`: the result of a verb, as plain values.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from types import TracebackType
from typing import Any, TypeVar, get_args

from veneer.text.strict_json import restored

Thing = TypeVar("Thing")

INTERVAL = 0.1
"""Least seconds between two `StageProgress` of a stage."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StageBegun:
    """Something begins that may take a while."""

    stage: str
    """What is done, as a person reads it: "loading model/"."""
    total: int | None = None
    """The number of units in the whole stage; None where it is not known."""
    unit: str = ""
    """The name of the units, in the plural: "tensors", "rows"."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StageProgress:
    """How far a stage is, at most ten times a second."""

    stage: str
    done: int
    """The number of units that are done."""
    total: int | None
    """The number of units in the whole stage; None where it is not known."""
    unit: str
    rate: float
    """Units in a second, since the stage began."""
    seconds_left: float | None
    """Seconds until the stage ends, at that rate; None where the total is not known, or nothing is done yet."""
    item: str = ""
    """What is processed now, or was made so far: the name of a tensor, "3,120 tokens"."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StageEnded:
    """A stage is done. A stage that fails ends with the verb's error instead."""

    stage: str
    seconds: float
    """Seconds that the stage took."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StepBudget:
    """The steps that a run makes within its time limit, fixed before the first one."""

    limit: float
    """Seconds that the run may take."""
    steps: int
    """The number of steps that fit."""
    full_steps: int
    """The number of steps that the run would have without a limit."""
    seconds_per_step: float
    """Seconds of a step, from measured micro-batches."""
    seconds: float
    """Seconds that the run is expected to take, with loading and evaluation."""
    full_seconds: float
    """Seconds that it would take without a limit."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunStarted:
    """The first event of a run, and of every resumption."""

    method: str
    steps: int
    """The number of steps in the whole run."""
    resumed_at: int
    """The number of steps that were done already."""
    examples: int
    """The number of training rows."""
    trainable: int
    """The number of trainable parameters."""
    learning_rate: float
    """The peak learning rate."""
    planned_memory_mb: float | None = None
    """Peak memory by the plan, in MB; None where there is none, as under transformers."""
    planned_seconds: float | None = None
    """Seconds of a step by the plan."""
    complete_before: bool = False
    """Whether the folder already holds the result, so that nothing is trained and nothing is written."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StepDone:
    """One optimiser step."""

    step: int
    """The step's number; the first is 1."""
    epoch: float
    """Passes over the training rows that are done."""
    loss: float
    """The loss of this step alone: under `sft` the mean over its supervised tokens, in nats."""
    grad_norm: float
    """The norm of the gradient before clipping."""
    learning_rate: float
    tokens: int
    """The number of tokens in the step's rows."""
    supervised: int
    """The number of tokens that count in the loss."""
    seconds: float
    """Seconds that the step took."""
    memory_mb: float
    """Peak memory so far, in MB: resident on a CPU, allocated on a GPU."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Other means over the step, by name, if the objective has any: its terms, or numbers that it only reports."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StepSkipped:
    """A bad step that was left out: it has changed neither a weight nor the optimiser's state."""

    step: int
    """The step's number."""
    loss: float
    """The loss of the step, which may not be finite."""
    grad_norm: float
    """The norm of the gradient."""
    reason: str
    """What is bad about the step, in a sentence."""
    skipped: int
    """The number of steps that the run has left out so far, including this one."""
    seconds: float
    """Seconds that the step took."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluated:
    """The evaluation loss after a step."""

    step: int
    loss: float
    """The objective's loss of the evaluation rows: under `sft` the mean over their supervised tokens, in nats."""
    best: bool
    """Whether it is the best evaluation so far, by `best_by`."""
    seconds: float
    """Seconds that the evaluation took."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Other measures of the evaluation rows, by name: those of the objective, and those of `train.best_metric`."""
    best_by: str = "loss"
    """What evaluations are compared by: `loss`, or one of `metrics`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplesAnswered:
    """The model's answers after a step, to the same prompts every time (`train.samples_every`)."""

    step: int
    prompts: tuple[str, ...]
    answers: tuple[str, ...]
    cut_short: bool
    """Whether answers were ended early, because samples may take no more of the run's time."""
    seconds: float
    """Seconds that the answers took."""
    share: float
    """The share of the run's time that all samples have taken so far."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AnswersJudged:
    """The answers that a step has sampled have their rewards, and are about to be trained."""

    step: int
    answers: int
    tokens: int
    """Tokens of all answers."""
    failed: tuple[str, ...]
    """The answers that a reward failed on, each with the reason; they are left out."""
    prompts: tuple[str, ...]
    """The prompts of the answers that are shown."""
    shown: tuple[str, ...]
    """The answers with the highest and with the lowest reward; only one if they are the same."""
    rewards: tuple[float, ...]
    """Their rewards."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointSaved:
    """A checkpoint is complete on disk."""

    step: int
    path: str
    """The checkpoint's folder."""
    bytes: int
    """The size of its files."""
    seconds: float
    """Seconds that writing it took."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MicroBatchHalved:
    """The memory was full; the step is repeated in smaller micro-batches, which later steps use too."""

    step: int
    before: int
    """The number of tokens in the micro-batch that did not fit."""
    tokens: int
    """The largest number of tokens in a micro-batch from now on."""


class Level(StrEnum):
    """How much a note matters."""

    NOTE = "note"
    WARNING = "warning"
    """The result may not be what the user expects."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Note:
    """Something that the user should know, in a sentence."""

    message: str
    level: Level = Level.NOTE


class RunEnd(StrEnum):
    """Why a run ended."""

    COMPLETE = "complete"
    """All steps were made, or `train.patience` ended it."""
    INTERRUPTED = "interrupted"
    """It was stopped, and continues with `--resume`."""
    DIVERGED = "diverged"
    """The loss, a gradient or the weights were not finite."""
    OUT_OF_MEMORY = "out of memory"
    RANK_LOST = "rank lost"
    """Another process of the run was gone."""
    FAILED = "failed"
    """A reward ended it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunFinished:
    """The last event of a run."""

    step: int
    reason: RunEnd
    seconds: float
    memory_mb: float
    best_step: int | None = None
    best_loss: float | None = None
    """The loss of the best evaluation."""
    best_by: str = "loss"
    """What evaluations are compared by, as in `Evaluated`."""
    best_value: float | None = None
    """The value of `best_by` in the best evaluation."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunsJoined:
    """Some runs of a sweep are trained together from now on, on one base."""

    runs: tuple[str, ...]
    """The names of the runs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunDone:
    """A run of a comparison or a sweep is complete, and scored if it has to be."""

    run: str
    before: bool
    """Whether it was complete before this call, so that nothing was done."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunFailed:
    """A run of a comparison or a sweep could not be completed."""

    run: str
    message: str
    """The reason."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """The result of a verb. It is the last event of every verb but `train`, whose last event is `RunFinished`."""

    verb: str
    values: Mapping[str, Any]
    """The result as plain values, which JSON can hold."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunEvent:
    """Something that happens in one of several runs."""

    run: str
    """The name of the run."""
    event: Event


Event = (
    StageBegun | StageProgress | StageEnded | Note | StepBudget | RunStarted | StepDone | StepSkipped | Evaluated
    | SamplesAnswered | AnswersJudged | CheckpointSaved | MicroBatchHalved | RunFinished | RunsJoined | RunDone
    | RunFailed | RunEvent | Result
)  # fmt: skip
Subscriber = Callable[[Event], None]
KINDS: dict[str, type[Event]] = {kind.__name__: kind for kind in get_args(Event)}


def broadcast(subscribers: Sequence[Subscriber]) -> Subscriber:
    """One subscriber that passes every event on to all of `subscribers`, in their order."""

    def tell(event: Event) -> None:
        for subscriber in subscribers:
            subscriber(event)

    return tell


def ignore(event: Event) -> None:
    """A subscriber that ignores every event."""


def notes_to(emit: Subscriber) -> Callable[[str], None]:
    """A function that sends a sentence to a subscriber, as a `Note`."""
    return lambda message: emit(Note(message=message))


def of_run(run: str, emit: Subscriber) -> Subscriber:
    """A subscriber for the events of one of several runs: each is passed on under the run's name."""
    return lambda event: emit(RunEvent(run=run, event=event))


def to_json(event: Event) -> dict[str, Any]:
    """An event as plain values: its kind under `event`, and its fields. A run's event has the run's name as well."""
    if isinstance(event, RunEvent):
        return {**to_json(event.event), "run": event.run}
    return {"event": type(event).__name__, **asdict(event)}


def from_json(values: Mapping[str, Any]) -> Event | None:
    """The event from which `to_json` made `values`, unless it was a `RunEvent`; None if there is no such event."""
    kind = KINDS.get(str(values.get("event")))
    if kind is None:
        return None
    known = {one.name for one in fields(kind)}
    given = {key: value for key, value in restored(values).items() if key in known}
    try:
        if kind is Note and "level" in given:
            given["level"] = Level(given["level"])
        if kind is RunFinished:
            given["reason"] = RunEnd(str(given.get("reason")))
        return kind(**given)
    except (TypeError, ValueError):  # a field is missing, or has a word that is not known: not one of ours
        return None


class Stage:
    """Notifies a subscriber of a stage: when it begins, how far it is and when it has ended. Use as a context manager.

    Args:
        emit: receives the events.
        name: the text that people read.
        total: the number of units in the whole stage, if it is known.
        unit: the name of the units, in the plural.
        clock: gives the time in seconds, never less than before.
    """

    def __init__(
        self,
        emit: Subscriber,
        name: str,
        *,
        total: int | None = None,
        unit: str = "",
        clock: Callable[[], float] = time.monotonic,
    ):
        self._emit, self._name, self._total, self._unit, self._clock = emit, name, total, unit, clock
        self._done, self._under_way = 0, 0.0
        self._begun = self._told = clock()

    def __enter__(self) -> Stage:
        self._emit(StageBegun(stage=self._name, total=self._total, unit=self._unit))
        self._begun = self._told = self._clock()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._emit(StageEnded(stage=self._name, seconds=self._clock() - self._begun))

    def advance(self, count: int = 1, item: str = "") -> None:
        """Report that `count` more units are done (0 only reports the current `item`)."""
        self._done += count
        now = self._clock()
        if now - self._told >= INTERVAL or (count and self._done == self._total):
            self._tell(now, item)

    def advance_side_by_side(self, count: int, under_way: float, item: str = "") -> None:
        """Report that `count` more units are done, how many units' worth of unfinished ones are done (`under_way`), and
        what they have made so far (`item`).

        Rate and time left include unfinished units: when things are made side by side, much is done before the first is
        complete.
        """
        self._under_way = under_way
        self.advance(count, item)

    def _tell(self, now: float, item: str) -> None:
        self._told = now
        worth = self._done + self._under_way
        if self._total is not None:
            worth = min(worth, self._total)
        rate = worth / max(now - self._begun, 1e-9)
        left = None
        if self._total is not None and rate > 0:
            left = (self._total - worth) / rate
        self._emit(
            StageProgress(
                stage=self._name, done=self._done, total=self._total, unit=self._unit, rate=rate, seconds_left=left,
                item=item,
            )
        )  # fmt: skip


def counted(things: Iterable[Thing], stage: Stage) -> Iterator[Thing]:
    """Pass things on, and count each in `stage` as it is taken."""
    for thing in things:
        stage.advance()
        yield thing
