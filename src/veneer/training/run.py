"""A whole training run from its configuration: `train` is what `veneer train` and the Python API call."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from veneer.config import RunConfig, check
from veneer.events import EventLog, Note, Stage, Subscriber
from veneer.out_of_memory import out_of_memory_while
from veneer.signals import deferred
from veneer.system import heap_kept
from veneer.training.build import build
from veneer.training.fitting import fitting, settings_that_fit
from veneer.training.objective import OverModel
from veneer.training.objectives.choose import objective_of
from veneer.training.reference import reference_of
from veneer.training.session import RunInputs, RunResult, Session, begin, locked_folder, prepare_run, threads_of
from veneer.training.time_limit import within_limit


def train(
    config: RunConfig,
    *,
    resume: bool = False,
    subscribers: Sequence[Subscriber] = (),
    stop: Callable[[], bool] = lambda: False,
    micro_batches: Sequence[Sequence[int]] = (),
) -> RunResult:
    """Train as `config` says and write everything into `config.output`.

    Args:
        config: the run.
        resume: go on from the newest checkpoint in `config.output`, or start where there is none. The settings and data
            must be those of that run; only `train.epochs` or `train.steps` may be more, which makes the run longer.
        subscribers: called with every event (progress bars, trackers).
        stop: asked after every step; true ends the run with a checkpoint.
        micro_batches: the sizes of micro-batches of a run that is made again (`Progress.micro_batches`).

    Raises:
        VeneerError: of the kind that `veneer.errors` draws, whatever is wrong; nothing that was complete is lost.
    """
    check(config)
    with threads_of(config), heap_kept(), locked_folder(config, resume, subscribers) as folder:
        log, call = folder.log, _Call(config=config, stop=stop, micro_batches=micro_batches, begun=time.perf_counter())
        # Rows and plan first, and only then the model.
        inputs = prepare_run(config, log.emit, resume=resume)
        if folder.killed is not None and folder.killed.memory_mb is not None:
            log.emit(Note(message=f"If it was the memory: {settings_that_fit(inputs, folder.killed.memory_mb * 1e6)}"))
        with fitting(inputs):
            session = _begin(inputs, call, log)
            with Stage(log.emit, "trying the largest micro-batch"):
                session.engine.rehearse(session.progress, session.data.steps.largest)
            with deferred():
                session.engine.run(session.progress)
            return session.end()


@dataclass(frozen=True, kw_only=True, slots=True)
class _Call:
    """What `train` was called with, and when."""

    config: RunConfig
    stop: Callable[[], bool]
    micro_batches: Sequence[Sequence[int]]
    begun: float
    """Seconds of `time.perf_counter`."""


def _begin(inputs: RunInputs, call: _Call, log: EventLog) -> Session:
    """Load the model, whose files are closed when this returns, and restore what a resumed run had reached."""
    with out_of_memory_while("loading the model"):
        model, trainable = build(inputs, log.emit)
    objective = OverModel(model, objective_of(inputs.config, reference_of(inputs, model, trainable, log.emit)))
    if inputs.config.train.time_limit is not None:
        with out_of_memory_while("measuring steps for train.time_limit"):
            inputs = within_limit(inputs, call.config, model, trainable, objective, log.emit, call.begun)
    return begin(inputs, model, trainable, objective, log, call.stop, call.micro_batches)
