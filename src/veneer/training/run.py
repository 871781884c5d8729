"""A whole training run from its configuration: `train` is what `veneer train` and the Python API call."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from veneer.config import RunConfig, check
from veneer.events import EventLog, Stage, Subscriber
from veneer.signals import deferred
from veneer.system import heap_kept
from veneer.training.build import build
from veneer.training.objective import OverModel
from veneer.training.session import RunResult, Session, begin, locked_folder, prepare_run, threads_of
from veneer.training.time_limit import within_limit


def train(
    config: RunConfig,
    *,
    resume: bool = False,
    subscribers: Sequence[Subscriber] = (),
    stop: Callable[[], bool] = lambda: False,
) -> RunResult:
    """Train as `config` says and write everything into `config.output`.

    Args:
        config: the run.
        resume: go on from the newest checkpoint in `config.output`, or start where there is none. The settings and data
            must be those of that run; only `train.epochs` or `train.steps` may be more, which makes the run longer.
        subscribers: called with every event (progress bars, trackers).
        stop: asked after every step; true ends the run with a checkpoint.

    Raises:
        VeneerError: of the kind that `veneer.errors` draws, whatever is wrong; nothing that was complete is lost.
    """
    check(config)
    with threads_of(config), heap_kept(), locked_folder(config, resume, subscribers) as log:
        session = _begin(config, resume, log, stop)
        with Stage(log.emit, "trying the largest micro-batch"):
            session.engine.rehearse(session.data.steps.largest())
        with deferred():
            session.engine.run(session.progress)
        return session.end()


def _begin(config: RunConfig, resume: bool, log: EventLog, stop: Callable[[], bool]) -> Session:
    """Rows and plan first, and only then the model; its files are closed when this returns."""
    begun = time.perf_counter()
    inputs = prepare_run(config, log.emit, resume=resume)
    model, trainable = build(inputs, log.emit)
    if inputs.config.train.time_limit is not None:
        inputs = within_limit(inputs, config, model, trainable, log.emit, begun)
    return begin(inputs, model, trainable, OverModel(model), log, stop)
