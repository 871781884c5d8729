"""A whole training run from its configuration: `veneer train` and the Python API call `train`."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from yaml import safe_load

from veneer.config import RunConfig, check, parse, to_yaml
from veneer.enums import ObjectiveName, Sharding
from veneer.event_log import EventLog
from veneer.events import Note, Stage, Subscriber, ignore
from veneer.machine.hardware import computing_on, resolve_device
from veneer.machine.heap import heap_kept
from veneer.machine.out_of_memory import out_of_memory_while
from veneer.machine.peak_memory import restart_peak_memory
from veneer.model.language import LanguageModel
from veneer.processes.group import Group, Meeting
from veneer.processes.ranks import ONE_RANK, Ranks
from veneer.rewards.build import judge_of
from veneer.rewards.judge import Judge
from veneer.runtime.signals import deferred, interrupts_noted, stop_signalled
from veneer.training.build import base_model, sharded, trainable_of
from veneer.training.folder.continued import continued_later
from veneer.training.folder.locked_folder import LockedFolder, locked_folder
from veneer.training.memory_use.as_planned import as_planned
from veneer.training.memory_use.fitting import fitting, settings_that_fit
from veneer.training.objectives.base import StepObjective
from veneer.training.objectives.choose import needs_reference
from veneer.training.objectives.distillation import Teacher
from veneer.training.parallel.shared_rows import SharedRows
from veneer.training.parallel.start import CHOICES, refuse_alone, with_own_device
from veneer.training.references.reference import Reference, objective_over, partners_of, reference_of, wanted_partners
from veneer.training.rewarding.score_reward import with_reward_models
from veneer.training.rollouts.run import SampledRun, sampled_run
from veneer.training.rollouts.sampler import Sampler
from veneer.training.run_inputs import RunInputs, prepare_run, with_threads_as_before
from veneer.training.session import Learner, RunResult, Session, begin, threads_of
from veneer.training.teaching.live_teacher import live_teacher
from veneer.training.teaching.teacher_table import taught_table
from veneer.training.time_limit import within_limit
from veneer.training.trainable import AdapterTraining, Trainable

REFERENCE = "reference"
"""The key with which rank 0 reports that the reference is computed."""


def train(
    config: RunConfig,
    *,
    resume: bool = False,
    emit: Subscriber = ignore,
    stop: Callable[[], bool] = lambda: False,
    micro_batches: Sequence[Sequence[int]] = (),
    ranks: Ranks = ONE_RANK,
) -> RunResult:
    """Train as `config` says and write everything into `config.output`.

    Args:
        config: the run.
        resume: continue from the newest checkpoint in `config.output`, or start if there is none. The settings and data
            must be those of that run; only `train.epochs` or `train.steps` may be higher, which makes the run longer.
        emit: receives every event.
        stop: called after every step; true ends the run with a checkpoint.
        micro_batches: the sizes of micro-batches of a run that is reproduced (`Progress.micro_batches`).
        ranks: the place of this process among those that make the run together. Each calls this function; rank 0
            writes, and passes events to its `emit`. A run that its launcher has restarted resumes by itself.

    Raises:
        VeneerError: an error of the hierarchy in `veneer.errors`; no complete result is lost.
    """
    check(config)
    refuse_alone(config, ranks)
    with Meeting(ranks, config.compute.rank_timeout) as group:
        config = config.model_copy(update={"compute": with_own_device(config.compute, ranks)})
        # Only hosts that were there before know of a restart; rank 0 learns of it from them.
        resume = resume or ranks.restarts > 0 or group.ranks.restarts > 0
        config = with_threads_as_before(config, resume, ranks)
        call = _Call(config=config, stop=stop, micro_batches=micro_batches, begun=time.perf_counter(), group=group)
        device = resolve_device(config.compute.device)
        with (
            threads_of(config),
            heap_kept(),
            computing_on(device, deterministic=config.compute.deterministic),
            locked_folder(config, resume, emit, ranks) as folder,
        ):
            restart_peak_memory(device)
            return _run_in_folder(call, folder, resume)


def _run_in_folder(call: _Call, folder: LockedFolder, resume: bool) -> RunResult:
    """Prepare the run and its rewards, and then load the model and train it."""
    # Only rank 0 judges. A reward that cannot be used is refused before the rows are read.
    rewards = call.config.rewards if call.group.ranks.first else ()
    with judge_of(rewards, stop_signalled) as judge:
        inputs = _prepared(call, folder.log, resume)
        prompts, train_rows = inputs.data.rows.prompts, len(inputs.data.rows.train)
        sides = prompts[:train_rows], prompts[train_rows:]
        judge.check(*({prompt.record.where: prompt.columns for prompt in side} for side in sides))
        return _run_session(inputs, judge, call, folder)


def _run_session(inputs: RunInputs, judge: Judge, call: _Call, folder: LockedFolder) -> RunResult:
    """Load the model of a prepared run, train it, and publish the result."""
    log = folder.log
    if folder.killed is not None and folder.killed.memory_mb is not None:
        log.emit(Note(message=f"If memory was the cause: {settings_that_fit(inputs, folder.killed.memory_mb * 1e6)}"))
    with fitting(inputs), continued_later(inputs.folder):
        session = _begin(inputs, judge, call, log)
        parameters = session.engine.optimizer.parameters.values()
        with as_planned(session.learner.model, parameters, inputs.prepared.plan, call.group, log.emit):
            if not session.complete:
                with Stage(log.emit, "trying the largest micro-batch"):
                    session.engine.rehearse(session.inputs.data.steps.largest)
            with interrupts_noted(), deferred():
                session.engine.run()
            return session.end()


def _prepared(call: _Call, log: EventLog, resume: bool) -> RunInputs:
    """The run before any weight is read. Rank 0 reads the rows and makes the choices, and the others follow it. The
    group is connected when all of that is done."""
    group, config = call.group, call.config
    rows = SharedRows(group, Path(config.output))
    try:
        if group.ranks.first:
            inputs = prepare_run(config, log.emit, resume=resume, rows=rows, ranks=group.ranks)
            if group.ranks.many:
                group.publish(CHOICES, to_yaml(inputs.config))
        else:
            chosen = parse(safe_load(group.awaited(CHOICES)), where="the settings of rank 0")
            place = {"device": config.compute.device, "threads": config.compute.threads}
            chosen = chosen.changed("compute", place)
            inputs = prepare_run(chosen, log.emit, rows=rows, ranks=group.ranks)
        group.connect(resolve_device(config.compute.device))
        group.require_equal("the data", inputs.data.rows.digest())
    finally:
        rows.remove()
    return inputs


@dataclass(frozen=True, kw_only=True, slots=True)
class _Call:
    """The arguments of a call of `train`, and when it began."""

    config: RunConfig
    stop: Callable[[], bool]
    micro_batches: Sequence[Sequence[int]]
    begun: float
    """The time of `time.perf_counter`, in seconds."""
    group: Group
    """The processes of the run."""


def _begin(inputs: RunInputs, judge: Judge, call: _Call, log: EventLog) -> Session:
    """Load the model, whose files are closed when this returns, and restore the state of a resumed run."""
    if inputs.config.compute.sharding is Sharding.FULL:
        learner = _sharded_learner(inputs, call, log)
    else:
        learner = _learner(inputs, judge, call, log)
    if inputs.config.train.time_limit is not None:
        with out_of_memory_while("measuring steps for train.time_limit"):
            inputs = within_limit(inputs, call.config, learner, log.emit, call.begun)
    return begin(inputs, learner, log, call.stop, call.micro_batches, call.group)


def _learner(inputs: RunInputs, judge: Judge, call: _Call, log: EventLog) -> Learner:
    # A teacher that is asked only once is freed before the student is loaded.
    teacher: Teacher | None = taught_table(inputs, log.emit, call.group)
    with out_of_memory_while("loading the model"):
        model = base_model(inputs, log.emit)
        if call.group.ranks.first:
            judge = with_reward_models(judge, inputs.config, model, inputs.data.tokenizer)
        trainable = trainable_of(model, inputs)
        if teacher is None and inputs.prepared.taught is not None:
            teacher = live_teacher(inputs.config, model, trainable, log.emit)
    if inputs.config.objective is ObjectiveName.GRPO:
        sampled = _sampled(inputs, model, trainable, judge, log.emit, call.group)
        return Learner(model=model, trainable=trainable, objective=sampled.objective, sampled=sampled)
    objective = _objective(inputs, model, trainable, log.emit, call.group, teacher)
    return Learner(model=model, trainable=trainable, objective=objective)


def _sharded_learner(inputs: RunInputs, call: _Call, log: EventLog) -> Learner:
    """`_learner` for a model that no process holds as a whole."""
    with out_of_memory_while("loading the model"):
        trainable = sharded(inputs, call.group, log.emit)
    objective = _objective(inputs, trainable.model, trainable, log.emit, call.group, None)
    return Learner(model=trainable.model, trainable=trainable, objective=objective)


def _sampled(
    inputs: RunInputs, model: LanguageModel, trainable: Trainable, judge: Judge, emit: Subscriber, group: Group
) -> SampledRun:
    """The parts of a run that samples its answers."""
    sampler = Sampler(
        model=model,
        tokenizer=inputs.data.tokenizer,
        stop_ids=inputs.stop_ids,
        judge=judge,
        group=group,
        emit=emit,
        stop=stop_signalled,
    )
    return sampled_run(inputs.config, inputs.data, trainable, sampler)


def _objective(
    inputs: RunInputs,
    model: LanguageModel,
    trainable: Trainable,
    emit: Subscriber,
    group: Group,
    teacher: Teacher | None,
) -> StepObjective:
    """The objective with its reference's log-probabilities. Rank 0 computes them, or finds them in the run's folder,
    and the others wait for them without a time limit."""
    partners = partners_of(inputs)
    if group.ranks.first:
        reference = reference_of(inputs, model, trainable, partners, emit)
        group.publish(REFERENCE, "ready")
    else:
        reference = Reference.unknown(inputs)
        group.awaited(REFERENCE)
    if needs_reference(inputs.config.objective):
        group.broadcast(torch.from_numpy(reference.table.values))
    if partners is not None:
        wanted = wanted_partners(inputs.data, partners)
        values = torch.tensor([reference.partners.get(pair, 0.0) for pair in wanted], dtype=torch.float64)
        group.broadcast(values)
        reference.partners.update(zip(wanted, values.tolist(), strict=True))
    score = trainable.adapter.score if isinstance(trainable, AdapterTraining) else None
    return objective_over(inputs, model, reference, partners, teacher, score)
