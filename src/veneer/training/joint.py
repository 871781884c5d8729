"""Several adapters that are trained over one base in one run, each as if it were alone.

The runs share no trained parameters, so one backward of a pass (`veneer.training.joint_passes`) computes a
separate gradient for each. Each run's own engine handles loss, clipping, optimiser, schedule, evaluation, events and
checkpoints.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from veneer.adapters.adapter_set import AdapterSet, modules
from veneer.adapters.targets import HEAD
from veneer.config import RunConfig, check
from veneer.data.rows import load_rows
from veneer.enums import Method, ObjectiveName, Recompute
from veneer.errors import ConfigError, Interrupted, OutOfMemory, TrainingStopped
from veneer.events import Event, Note, Subscriber, of_run
from veneer.machine.hardware import computing_on, resolve_device
from veneer.machine.heap import heap_kept
from veneer.machine.out_of_memory import out_of_memory_while
from veneer.model.decoder import CausalLM
from veneer.planning.plan import Plan
from veneer.processes.ranks import Ranks
from veneer.runtime.signals import deferred
from veneer.training.build import adapter_on, base_model
from veneer.training.evaluations.best import best_by
from veneer.training.folder.locked_folder import locked_folder
from veneer.training.joint_passes import JOINED_TOKENS, Joint, OverJoint, PassFault
from veneer.training.memory_use.fitting import fitting
from veneer.training.memory_use.out_of_memory import MemoryFault, release_memory
from veneer.training.objectives.base import Means, Objective
from veneer.training.objectives.choose import needs_reference, objective_of
from veneer.training.objectives.reference import ReferenceTable
from veneer.training.objectives.sft import SupervisedCrossEntropy
from veneer.training.prepare import LoadRows
from veneer.training.run_inputs import RunInputs, prepare_run, with_threads_as_before
from veneer.training.session import Learner, RunResult, Session, begin, threads_of
from veneer.training.step_source import StepBatches
from veneer.training.steps import lanes_in
from veneer.training.trainable import AdapterTraining


@dataclass(frozen=True, slots=True)
class JointRun:
    """A prepared run that may be trained with others, and the notes of its preparation."""

    inputs: RunInputs
    notes: Sequence[Note]
    objective: Objective = field(default_factory=SupervisedCrossEntropy)
    """The objective that the run minimises."""

    @property
    def base_key(self) -> tuple[Any, ...] | None:
        """The key that two runs must share to be trained together; None for a run that must be trained alone."""
        config = self.inputs.config
        if not self.inputs.prepared.description.capabilities.joint_passes:
            return None  # its layers see batches, in which the tokens of different adapters cannot be distinguished
        layers = config.compute.recompute is Recompute.LAYERS
        if needs_reference(config.objective) or config.objective in (ObjectiveName.DISTILLATION, ObjectiveName.REWARD):
            return None  # the reference is the model as its own run starts; teacher and score head are each run's own
        if config.objective is ObjectiveName.GRPO:
            return None  # its rows are sampled from its own adapter, step by step
        if lanes_in(config.train) > 1:
            return None  # its gradients are added by lane
        if best_by(config).of_answers:
            return None  # its answers are the model's with one adapter
        if config.train.time_limit is not None or config.train.samples_every is not None:
            return None  # its steps or samples depend on its own speed, so its time cannot be shared
        if config.method is Method.FULL or config.lora.new_tokens or (layers and config.lora.dropout > 0):
            # New tokens make the base's tables longer. And recomputed layers rewind one source of dropout masks, while
            # here each adapter has its own.
            return None
        compute = config.compute.model_dump(exclude={"micro_batch_tokens", "memory_limit_mb"})
        return config.model, config.revision, config.method, str(config.quant), str(compute)

    @property
    def plan(self) -> Plan | None:
        """The plan of the run by itself; None if there is only an estimate."""
        return self.inputs.prepared.plan


def prepare_joint(
    config: RunConfig, *, resume: bool = False, rows: LoadRows = load_rows, processes: int = 1
) -> JointRun:
    """Read a run's rows and plan it.

    Args:
        config: the run.
        resume: continue from the newest checkpoint in its output folder.
        rows: loads the rows of `config.data`.
        processes: the number of processes with their own runs that share this machine's memory.

    Raises:
        VeneerError: something cannot be used, or does not fit.
    """
    check(config)
    config = with_threads_as_before(config, resume)
    notes: list[Note] = []

    def keep(event: Event) -> None:
        if isinstance(event, Note):
            notes.append(event)

    with threads_of(config):
        inputs = prepare_run(config, keep, resume=resume, rows=rows, ranks=Ranks(local_world=processes))
        return JointRun(inputs, notes, objective_of(config, ReferenceTable.empty(0)))


def joint_bytes(runs: Sequence[JointRun]) -> int:
    """The most bytes that the runs need together.

    That is one base, each run's adapter, gradients and optimiser, and what the widest pass allocates and frees.
    """
    plans = [run.plan for run in runs if run.plan is not None]
    memories = [plan.choice.memory for plan in plans]
    tokens = [plan.choice.batch.tokens for plan in plans]
    shared = max(memory.runtime + memory.base for memory in memories)
    beside = [memory.adapters + memory.gradients + memory.optimizer for memory in memories]
    moving = [
        m.peak - m.decoded + m.hosted + m.parked - m.runtime - m.base - own
        for m, own in zip(memories, beside, strict=True)
    ]
    widest = sum(tokens) if plans[0].setup.device != "cpu" else max(JOINED_TOKENS, *tokens)
    share = min(1.0, widest / sum(tokens))
    return shared + sum(beside) + max(*moving, int(share * sum(moving)))


@dataclass(slots=True)
class JointMember:
    """One of the runs that are trained together."""

    name: str
    session: Session
    outcome: RunResult | TrainingStopped | None = None

    @property
    def done(self) -> bool:
        """Whether no step is left."""
        return self.session.engine.done


def train_together(
    runs: Sequence[JointRun],
    emit: Subscriber,
    *,
    stop: Callable[[], bool] = lambda: False,
) -> list[RunResult | TrainingStopped]:
    """Train runs over one base in lockstep; each writes its own output folder as `veneer.training.run.train` does.

    Args:
        runs: the prepared runs, which must have the same `base_key`.
        emit: receives every event of every run, as a `RunEvent` with the name of the run's folder.
        stop: called after every step; true ends all runs with a checkpoint.

    Returns:
        The result of each run, or why it stopped. If a run diverges, it ends and the others continue.

    Raises:
        OutOfMemory: neither narrower passes nor smaller micro-batches fit; every run keeps its last step.
        VeneerError: an error of the hierarchy in `veneer.errors`; no complete result is lost.
    """
    largest = max(runs, key=lambda run: 0 if run.plan is None else run.plan.choice.memory.peak)
    try:
        with fitting(largest.inputs), joined(runs, emit, stop) as (joint, members):
            return Lockstep(joint, members).run()
    except OutOfMemory as error:
        raise OutOfMemory(f"{error} Fewer runs at a time (--together) need less memory too.") from None


@contextmanager
def joined(
    runs: Sequence[JointRun],
    emit: Subscriber,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[tuple[Joint, list[JointMember]]]:
    """Runs over one model, each ready for its next step. Arguments and errors are those of `train_together`."""
    keys = {run.base_key for run in runs}
    if len(keys) != 1 or None in keys:
        raise ConfigError(
            "these runs cannot be trained together: they need the same base, held and computed in the same way"
        )
    with ExitStack() as stack:
        config = runs[0].inputs.config
        stack.enter_context(threads_of(config))
        stack.enter_context(heap_kept())
        device = resolve_device(config.compute.device)
        stack.enter_context(computing_on(device, deterministic=config.compute.deterministic))
        logs = [
            stack.enter_context(
                locked_folder(run.inputs.config, run.inputs.resume, of_run(run.inputs.folder.path.name, emit))
            ).log
            for run in runs
        ]
        for run, log in zip(runs, logs, strict=True):
            for note in run.notes:
                log.emit(note)
        with out_of_memory_while("loading the model"):
            model = base_model(runs[0].inputs, emit)
        assert isinstance(model, CausalLM), "nobody else has joint passes"
        adapters = AdapterSet(model)
        trainables = [_adopt(adapters, model, str(number), run.inputs) for number, run in enumerate(runs)]
        heads = {name: modules(adapters[name])[HEAD] for name in adapters.names if HEAD in adapters[name].outermost}
        route = stack.enter_context(adapters.routed(adapters.names))
        joint = Joint(
            model, route, heads, {name: run.objective for name, run in zip(adapters.names, runs, strict=True)}
        )
        members = []
        for name, run, trainable, log in zip(adapters.names, runs, trainables, logs, strict=True):
            learner = Learner(model=model, trainable=trainable, objective=OverJoint(joint, name))
            members.append(JointMember(name, begin(run.inputs, learner, log, stop)))
        yield joint, members


def _adopt(adapters: AdapterSet, model: CausalLM, name: str, inputs: RunInputs) -> AdapterTraining:
    training = adapter_on(model, inputs)
    adapters.adopt(name, training.adapter)
    return training


@dataclass(slots=True)
class Lockstep:
    """Runs that make their steps together, in passes that fit into the memory."""

    joint: Joint
    members: Sequence[JointMember]
    width: int | None = None
    """The most tokens of a pass; None for as many as are worthwhile."""

    def run(self) -> list[RunResult | TrainingStopped]:
        """Train the runs to their ends. Arguments, result and errors are those of `train_together`."""
        try:
            self._rehearse()
            with deferred() as heed:
                live = _following(self.members, lambda member: member.session.engine.start())
                while live:
                    live = _following(live, self._step_of(live))
                if any(isinstance(member.outcome, Interrupted) for member in self.members):
                    heed()  # the caller of these runs learns of the signal, and has something to save
        except OutOfMemory:
            for member in self.members:
                if member.outcome is None:
                    member.session.engine.end_without_memory()
            raise
        return [member.outcome for member in self.members if member.outcome is not None]

    def _rehearse(self) -> None:
        """Run forward and backward of all runs' largest micro-batches, to no effect; see `Engine.rehearse`."""
        self.joint.model.train()
        halvings = dict.fromkeys((member.name for member in self.members), 0)
        while (fault := self._rehearsed()) is not None:
            self._make_room(self.members, fault, halvings)

    def _rehearsed(self) -> PassFault | None:
        largest = {}
        for member in self.members:
            engine = member.session.engine
            engine.passes.seed_rehearsal()
            most = engine.progress.micro_batch_tokens(engine.progress.step + 1)
            largest[member.name] = [member.session.inputs.data.steps.largest(most)]
        outcomes = (
            self.joint.attempt(batches, lambda name, sums: sums.total)
            for batches in self.joint.passes(largest, self.width)
        )
        fault = next((outcome for outcome in outcomes if isinstance(outcome, PassFault)), None)
        for member in self.members:
            member.session.engine.drop_gradients()
        return fault

    def _step_of(self, live: Sequence[JointMember]) -> Callable[[JointMember], None]:
        """Compute the gradients of a step of all runs. The result completes the step of one of them."""
        begun = time.perf_counter()
        halvings = dict.fromkeys((member.name for member in live), 0)
        steps, means = self._gradients(live)
        while isinstance(means, PassFault):
            self._make_room(live, means, halvings)
            steps, means = self._gradients(live)
        computed = means
        # The pass was for all runs: each counts its share, so that the runs' seconds add up to the real time.
        spent = (time.perf_counter() - begun) / len(live)

        def complete(member: JointMember) -> None:
            engine = member.session.engine
            if computed is None:
                engine.give_up()
            engine.complete(steps[member.name], computed[member.name], spent)

        return complete

    def _gradients(
        self, live: Sequence[JointMember]
    ) -> tuple[dict[str, StepBatches], dict[str, Means] | PassFault | None]:
        steps = {member.name: member.session.engine.prepare() for member in live}
        return steps, self.joint.gradients(steps, self.width)

    def _make_room(self, live: Sequence[JointMember], fault: PassFault, halvings: dict[str, int]) -> None:
        """Halve the width of passes from now on. If a pass was a single micro-batch, its run uses smaller ones instead.

        Args:
            live: the runs whose step has begun.
            fault: the pass that did not fit into the memory.
            halvings: how often each run's micro-batches were halved in this step; this function updates it.

        Raises:
            OutOfMemory: a micro-batch that was a pass by itself cannot be halved again.
        """
        for member in live:
            member.session.engine.drop_gradients()
        if len(fault.batches) > 1:
            release_memory(self.joint.model.device)
            self.width = fault.tokens // 2
            for member in live:
                message = f"the memory is full: at most {self.width:,} tokens are computed at once from here on"
                member.session.engine.log.emit(Note(message=message))
            return
        ((name, batch),) = fault.batches
        session = next(member.session for member in live if member.name == name)
        session.engine.halve(MemoryFault(batch, fault.message), halvings[name])
        halvings[name] += 1


def _following(members: Sequence[JointMember], act: Callable[[JointMember], None]) -> list[JointMember]:
    """Act on each run, and end those that have made their last step. The result is the runs that continue."""
    for member in members:
        try:
            act(member)
            if member.done:
                member.session.engine.finish()
                member.outcome = member.session.end()
        except TrainingStopped as error:
            member.outcome = error
    return [member for member in members if member.outcome is None]
