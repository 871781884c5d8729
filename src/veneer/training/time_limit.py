"""`train.time_limit`: the number of steps that fit into a time, determined before the first step by measuring.

A run that the clock simply stopped would end in the middle of its schedule, and never in the same place twice. So the
time is converted into a number of steps: the parts of the run are measured on its own micro-batches, without an effect
on weights or optimiser, and the largest number of steps that fits is used. From then on the run is like one with this
number as `train.steps`, which `config.yaml` records: it has the same schedule, evaluations and bytes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import nn

from veneer.config import RunConfig, TrainSection
from veneer.data.micro_batches.batches import MicroBatch
from veneer.errors import ConfigError
from veneer.events import Note, Stage, StepBudget, Subscriber, ignore
from veneer.machine.hardware import timed
from veneer.model.mode import evaluation_mode
from veneer.model.recompute import Recomputation
from veneer.text.counting import count_of
from veneer.training.evaluations.asking import answers_of
from veneer.training.gradients import clip, drop_gradients, global_norm
from veneer.training.open_choices import interval_of
from veneer.training.optimizers.choose import make_optimizer
from veneer.training.run_inputs import RunInputs, prepare_run
from veneer.training.session import Learner
from veneer.training.steps import PackedSteps
from veneer.training.trainable import Trainable

KEPT = 0.95
"""The share of the limit that is planned: another program may slow the steps after the measured ones."""
MEASURED = 0.02
"""The share of the limit in which each kind of work is tried: training, evaluation, and answers."""
FEWEST = 2
"""The fewest micro-batches that are tried, if there are as many."""
DOUBTED = 2.0
"""A step that takes this many times the plan's seconds is measured again. The plan is within 0.7 to 1.5 times of an
idle machine, and without this a program that ran during the few measured steps would decide the number of all steps."""
AGAIN = 2
"""The most times that a step is measured again: after that, the machine is considered slow."""
COPIED = 16_000_000
"""The most trained numbers on whose copies the optimiser is tried; more take proportionally longer."""
WRITTEN = 200e6
"""The bytes of a checkpoint that are written and hashed in a second: a slow disk's rate, not measured."""


class TimeTooShort(ConfigError):
    """Not a single step fits into the time limit of a run."""

    def __init__(self, limit: float, before: float, needed: float, enough: int, name: str = "train.time_limit"):
        """The arguments are the limit `name` (seconds), the seconds before the first step, the seconds of a run of one
        step, and a limit that is long enough."""
        super().__init__(
            f"{name} is {limit:g} s and not a single step fits: {before:.1f} s pass before the first step, "
            f"and a run of one step would take {needed:.1f} s; give {enough} s or more"
        )
        self.before, self.needed, self.enough = before, needed, enough


@dataclass(frozen=True, kw_only=True, slots=True)
class StepTimes:
    """Seconds that the parts of a run take on this machine."""

    before: float
    """Seconds before the first step: reading rows, loading, measuring and the rehearsal."""
    token: float
    """The average seconds of forward and backward for a token of a document."""
    update: float
    """Seconds of the optimiser in a step."""
    evaluation: float
    """Seconds of an evaluation whose answers are as long as they may be; 0 if there are no rows for it."""
    checkpoint: float
    """Seconds of a checkpoint, and of the result at the end."""

    def step(self, tokens: float) -> float:
        """Seconds of a step of so many tokens."""
        return tokens * self.token + self.update


def run_seconds(times: StepTimes, train: TrainSection, tokens: float, steps: int) -> float:
    """Seconds of a whole run of so many steps.

    Args:
        times: the seconds of the run's parts.
        train: the numbers of steps between evaluations and between checkpoints, if they are not left open.
        tokens: the tokens of all steps.
        steps: the number of steps.
    """
    evaluating, saving = train.eval_every or interval_of(steps), train.save_every or interval_of(steps)
    evaluations = math.ceil(steps / evaluating) if times.evaluation else 0
    # A best evaluation needs a checkpoint of its own.
    saves = math.ceil(steps / saving) + (evaluations if saving != evaluating else 0)
    return (
        times.before
        + tokens * times.token
        + steps * times.update
        + evaluations * times.evaluation
        + (saves + 1) * times.checkpoint
    )


@dataclass(frozen=True, slots=True)
class FittingSteps:
    """The number of steps of a run that fit into a time."""

    steps: int
    """The number of steps; 0 if not even one fits."""
    tokens: int
    """The tokens of these steps."""
    seconds: float
    """The seconds of the run with these steps; if none fits, of a run of one step."""


def steps_that_fit(
    limit: float, times: StepTimes, train: TrainSection, tokens: Callable[[int], int], total: int
) -> FittingSteps:
    """The largest number of steps that fits into `limit` seconds.

    Every number is tried, because a longer run may have fewer evaluations, if those come every tenth of the run.

    Args:
        limit: the limit in seconds.
        times: the seconds of the run's parts.
        train: see `run_seconds`.
        tokens: returns the tokens of a 1-based step.
        total: the number of steps of the run without a limit.
    """
    seen = tokens(1)
    best = FittingSteps(0, 0, run_seconds(times, train, seen, 1))
    for steps in range(1, total + 1):
        seen += tokens(steps) if steps > 1 else 0
        seconds = run_seconds(times, train, seen, steps)
        if seconds <= limit:
            best = FittingSteps(steps, seen, seconds)
        if times.before + seen * times.token + steps * times.update > limit:
            break
    return best


def within_limit(inputs: RunInputs, given: RunConfig, learner: Learner, emit: Subscriber, begun: float) -> RunInputs:
    """The run with as many of its steps as fit into its time limit.

    Args:
        inputs: the run as prepared without the limit.
        given: the run's configuration before anything was chosen.
        learner: the loaded model and what is trained on it; nothing in it changes.
        emit: receives notes on the measuring and the number of steps.
        begun: when the run began, by `time.perf_counter`.

    Raises:
        TimeTooShort: not one step fits.
    """
    limit, steps = given.train.time_limit, inputs.data.packed
    assert limit is not None
    with Stage(emit, "measuring steps for the time limit"):
        times = _undisturbed(inputs, learner, MEASURED * limit, begun, emit)
    fitting = steps_that_fit(KEPT * limit, times, given.train, steps.tokens, steps.total)
    if not fitting.steps:
        raise TimeTooShort(limit, times.before, fitting.seconds, math.ceil(fitting.seconds / KEPT))
    full = run_seconds(times, given.train, fitting.tokens / fitting.steps * steps.total, steps.total)
    emit(
        StepBudget(
            limit=limit,
            steps=fitting.steps,
            full_steps=steps.total,
            seconds_per_step=times.step(fitting.tokens / fitting.steps),
            seconds=fitting.seconds,
            full_seconds=full,
        )
    )
    return _with_steps(inputs, given, fitting.steps, emit)


def _with_steps(inputs: RunInputs, given: RunConfig, steps: int, emit: Subscriber) -> RunInputs:
    """The run prepared again, as if `train.steps` had been given: choices that depend on the number of steps are made
    again, and everything else stays."""
    chosen = inputs.config
    fixed: dict[str, object] = {"time_limit": None}
    if steps == inputs.data.steps.total:
        return inputs.with_config(chosen.changed("train", fixed))
    fixed |= {"steps": steps, "learning_rate": given.train.learning_rate}
    fixed |= {"eval_every": given.train.eval_every, "save_every": given.train.save_every}
    rows = inputs.data.rows
    again = replace(prepare_run(chosen.changed("train", fixed), ignore, rows=lambda *_: rows), resume=inputs.resume)
    rate = float(again.config.train.learning_rate)
    if rate != chosen.train.learning_rate:
        emit(Note(message=f"train.learning_rate {rate:.3g}: chosen again, for {count_of(steps, 'step')}"))
    return again


def _undisturbed(inputs: RunInputs, learner: Learner, most: float, begun: float, emit: Subscriber) -> StepTimes:
    """The seconds of the run's parts. If steps are so slow that they are measured again, these are the shortest
    times."""
    plan = inputs.prepared.plan
    times = _measured(inputs, learner, most, begun)
    if plan is None:
        return times
    tokens = plan.choice.batch.step_tokens
    for _ in range(AGAIN):
        taken = times.step(tokens)
        if taken <= DOUBTED * plan.seconds:
            break
        again = _measured(inputs, learner, most, begun)
        times = replace(
            again,
            token=min(again.token, times.token),
            update=min(again.update, times.update),
            evaluation=min(again.evaluation, times.evaluation),
        )
        slow = f"a step took {taken:.2g} s where {plan.seconds:.2g} s were planned; another program may have run"
        emit(Note(message=f"{slow} at the same time. It was measured again, and takes {times.step(tokens):.2g} s"))
    return times


def _measured(inputs: RunInputs, learner: Learner, most: float, begun: float) -> StepTimes:
    """The seconds of the run's parts, each kind tried for about `most` seconds."""
    config, steps = inputs.config, inputs.data.packed
    model, trainable, device = learner.model, learner.trainable, learner.model.device
    if inputs.prepared.forecast.recompute:
        model.recompute(Recomputation(trainable.generator()))
    model.train()
    trainable.seed_step(config.train.seed)
    rehearsal = timed(lambda: _forward_backward(learner, [steps.largest()]), device)
    tried, spent, tokens = 0, 0.0, 0
    for step in range(1, steps.total + 1):
        batches = steps.micro_batches(step)
        spent += timed(partial(_forward_backward, learner, batches), device)
        tokens += sum(batch.document_tokens for batch in batches)
        tried += len(batches)
        if spent >= most and tried >= FEWEST:
            break
    evaluation = _evaluation_seconds(learner, steps, most)
    answers = answers_of(inputs, model, ignore)
    if answers is not None:
        evaluation += answers.longest_seconds(most)
    update = _update_seconds(config, trainable, device)
    return StepTimes(
        # The run's own rehearsal repeats what was measured after warming up.
        before=time.perf_counter() - begun + rehearsal,
        token=spent / tokens,
        update=update,
        evaluation=evaluation,
        checkpoint=3 * 4 * trainable.numbers / WRITTEN,
    )


def _forward_backward(learner: Learner, batches: list[MicroBatch]) -> None:
    """Do the work of a step up to its gradients, which are dropped."""
    for batch in batches:
        learner.objective.sums(batch).total.backward()
    drop_gradients(learner.trainable.named().values())


def _evaluation_seconds(learner: Learner, steps: PackedSteps, most: float) -> float:
    """Seconds of one evaluation, from its first micro-batches."""
    spent, tokens = 0.0, 0
    with torch.no_grad(), evaluation_mode(learner.model):
        for tried, batch in enumerate(steps.evaluation(), start=1):
            spent += timed(partial(learner.objective.sums, batch), learner.model.device)
            tokens += batch.document_tokens
            if spent >= most and tried >= FEWEST:
                break
    return spent * sum(len(example.tokens) for example in steps.rows.eval) / tokens if tokens else 0.0


def _update_seconds(config: RunConfig, trainable: Trainable, device: torch.device) -> float:
    """The seconds that clipping and the optimiser take, tried on copies of the trained weights."""
    copies: dict[str, nn.Parameter] = {}
    for name, parameter in trainable.named().items():
        copies[name] = nn.Parameter(parameter.detach().clone())
        if sum(copy.numel() for copy in copies.values()) >= COPIED:
            break
    parameters = list(copies.values())
    rate = float(config.train.learning_rate)
    optimizer = make_optimizer(copies, config.train, rate, device)

    def update() -> None:
        for parameter in parameters:
            parameter.grad = torch.full_like(parameter, 1e-3)
        clip(parameters, global_norm(parameters), config.train.clip)
        optimizer.step(rate)

    update()  # creates the state
    share = sum(copy.numel() for copy in parameters) / trainable.numbers
    return timed(update, device) / share
