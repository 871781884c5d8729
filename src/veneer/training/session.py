"""A run under way: it begins in a locked folder, resumes from a checkpoint, and publishes its result."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from veneer.config import RunConfig, TrainSection, to_yaml
from veneer.data.trained_rows import FileHashes, JoinedHashes, write_hashes
from veneer.enums import Dtype, Factors, Products, Publish, Recompute
from veneer.errors import Interrupted
from veneer.event_log import EventLog
from veneer.events import Level, Note, RunStarted, notes_to
from veneer.html.notebook import html_facts
from veneer.io.digests import sampled_digest
from veneer.io.files import reported, write_text
from veneer.machine.out_of_memory import out_of_memory_while
from veneer.machine.peak_memory import peak_memory_mb
from veneer.model.language import LanguageModel
from veneer.model.recompute import Recomputation
from veneer.native.processor import AMX_FLAG, cpu_flags
from veneer.planning.plan import Plan
from veneer.processes.group import Alone, Group
from veneer.run_folder import trained_rows_of
from veneer.text.strict_json import to_text
from veneer.training.engine import Engine
from veneer.training.evaluations.asking import evaluation_of, shown_prompts_of
from veneer.training.evaluations.best import best_by
from veneer.training.folder.checkpoint import CheckpointStore
from veneer.training.folder.identity import identity_of, identity_of_defaults, shared_identity
from veneer.training.folder.lock import InputDigests, holds_result, write_lock
from veneer.training.folder.progress import Progress, ended
from veneer.training.folder.result import publish
from veneer.training.loss_scale import first_changes
from veneer.training.objectives.base import Means, StepObjective
from veneer.training.optimizers.base import Optimizer
from veneer.training.optimizers.choose import make_optimizer, notes
from veneer.training.optimizers.lorafa import FactorPair, LoraFA
from veneer.training.parallel.lanes import Team
from veneer.training.parallel.shards import Shards
from veneer.training.parallel.start import share, shared_progress
from veneer.training.passes import Passes
from veneer.training.rate_schedule import RateSchedule
from veneer.training.rollouts.run import SampledRun
from veneer.training.run_inputs import RunInputs
from veneer.training.sharded import ShardedTraining, StateInParts
from veneer.training.steps import lanes_in
from veneer.training.trainable import AdapterTraining, Trainable


@dataclass(frozen=True, slots=True)
class RunResult:
    """The result of a finished run."""

    output: Path
    """The output folder, with the adapter (or model), `config.yaml`, `events.jsonl`, `loss.svg`, `checkpoints/`."""
    progress: Progress
    best: Path | None
    """The checkpoint of the best evaluation, if there was an evaluation."""
    model: LanguageModel = field(repr=False)
    """The trained model, in memory."""
    trainable: Trainable = field(repr=False)
    peak_memory_mb: float
    """Peak memory of the process during the run (`veneer.machine.peak_memory`)."""
    plan: Plan | None = field(repr=False)
    """The plan that was made before the run; None if transformers computes the model, for which there is only an
    estimate."""
    complete_before: bool = False
    """Whether the folder held all of this before, and was left unchanged."""

    def _repr_html_(self) -> str:
        """The table that notebooks show."""
        progress = self.progress
        facts = {
            "output": self.output, "steps": progress.step, "tokens": progress.tokens, "seconds": progress.seconds,
            "peak memory, MB": self.peak_memory_mb, "loss of the best evaluation": progress.best_loss,
        }  # fmt: skip
        return html_facts("run", facts)


@contextmanager
def threads_of(config: RunConfig) -> Iterator[None]:
    """Let torch use the run's number of threads within the block."""
    before = torch.get_num_threads()
    if config.compute.threads:
        torch.set_num_threads(config.compute.threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass(frozen=True, kw_only=True, slots=True)
class Learner:
    """A model, the part of it that is trained, and the objective."""

    model: LanguageModel
    trainable: Trainable
    objective: StepObjective
    sampled: SampledRun | None = None
    """The parts of a run that samples its answers; None if its rows have answers."""

    @property
    def shards(self) -> Shards | None:
        """The weights in parts; None if every process has all of them."""
        return self.trainable.shards if isinstance(self.trainable, ShardedTraining) else None


@dataclass(frozen=True, slots=True)
class Session:
    """A run that is ready for its next step. The files of its model are closed."""

    inputs: RunInputs
    """The inputs. Their configuration is the one that `config.yaml` records, with no choice left open."""
    digests: InputDigests
    """The digests that `run.lock` will record for the files that were read."""
    learner: Learner
    engine: Engine
    complete: bool
    """Whether the folder already holds the result, so that nothing is trained and nothing is written."""

    def end(self) -> RunResult:
        """Publish the result of the run, with its lock. Only rank 0 does so.

        Raises:
            OutputError: a file cannot be written; the checkpoints still hold the weights.
            CheckpointError: a file that the run read can no longer be read, or has changed since the run was resumed.
            Interrupted: a signal came before large files were hashed.
        """
        inputs, learner, progress = self.inputs, self.learner, self.engine.progress
        folder, device = inputs.folder, learner.model.device
        if self.engine.team.first:
            base = self.engine.checkpoints.check_base()
            if base is None:
                raise Interrupted(
                    "stopped before the result was written, with every step done; continue with --resume (checkpoint: "
                    f"{folder.checkpoint(progress.step)})"
                )
            published = self._choose_weights()
            if not self.complete:
                with out_of_memory_while("writing the result"):
                    publish(
                        folder,
                        lambda staged: self._write(staged, published, base),
                        progress,
                        published,
                        inputs.config.objective,
                    )
                parts = 1 if self.engine.team.apart else self.engine.team.group.ranks.world
                write_lock(folder, inputs.config, self.digests, inputs.data.rows, device, progress, parts=parts)
        return RunResult(
            output=folder.path,
            progress=progress,
            best=None if progress.best_step is None else folder.checkpoint(progress.best_step),
            model=learner.model,
            trainable=learner.trainable,
            peak_memory_mb=peak_memory_mb(device),
            plan=inputs.prepared.plan,
            complete_before=self.complete,
        )

    def _write(self, directory: Path, step: int, base: Mapping[str, str]) -> None:
        """Write the files of the result, with the weights after a step."""
        trainable = self.learner.trainable
        if isinstance(trainable, ShardedTraining):
            trainable.publish(self.inputs.folder.checkpoint(step), directory)
        else:
            trainable.save(directory, base)

    def _choose_weights(self) -> int:
        """Load the weights that become the result. The return value is the step that made them."""
        progress, best = self.engine.progress, self.engine.progress.best_step
        if self.inputs.config.train.publish is not Publish.BEST or best == progress.step:
            return progress.step
        if best is None:
            why = self.engine.best_by.stale(progress)
            message = f"the result holds the last weights, despite train.publish: {why}"
            self.engine.log.emit(Note(message=message, level=Level.WARNING))
            return progress.step
        self.engine.checkpoints.restore_best(best, self.learner.trainable)
        message = (
            f"the result holds the weights after step {best}, by train.publish: {self.engine.best_by.why(progress)}; "
            f"the run ended after step {progress.step}"
        )
        self.engine.log.emit(Note(message=message))
        return best


def begin(
    inputs: RunInputs,
    learner: Learner,
    log: EventLog,
    stop: Callable[[], bool],
    micro_batches: Sequence[Sequence[int]] = (),
    group: Group | None = None,
) -> Session:
    """Write `config.yaml`, and restore the state of a resumed run. If there are several processes, rank 0 does so, and
    the others get what it has restored.

    Args:
        inputs: the run and the files that it reads.
        learner: the model and what is trained on it.
        log: the log of the run's events.
        stop: called after every step; true ends the run with a checkpoint.
        micro_batches: the sizes of micro-batches of a run that is reproduced (`Progress.micro_batches`).
        group: the connected processes of the run; None for a single process.

    Raises:
        CheckpointError: the run cannot be resumed.
        OutputError: the folder cannot be written.
    """
    model, trainable = learner.model, learner.trainable
    inputs = inputs.with_config(_as_loaded(inputs.config, model))
    config, device = inputs.config, model.device
    team = Team(group or Alone(), lanes_in(config.train), learner.shards)
    if config.compute.recompute is Recompute.LAYERS:
        model.recompute(Recomputation(trainable.generator()))
    optimizer = _optimizer(config, trainable, device)
    for line in _notes_before(config, optimizer, device):
        log.emit(Note(message=line))
    base = inputs.origin.files() if team.first else []
    digests = InputDigests(base, inputs.data.tokenizer, config, inputs.data.rows.files)
    store = _checkpoint_store(inputs, digests, learner)
    progress = Progress(micro_batches=[list(size) for size in micro_batches], loss_scales=first_changes(model.dtype))
    if inputs.resume:
        progress = store.restore(trainable, optimizer, notes_to(log.emit))
    progress = _shared_start(team, store, trainable, optimizer, progress)
    progress.follow_schedule(inputs.data.steps.total)
    if learner.sampled is not None:
        learner.sampled.source.share(progress.step)
    team.group.require_equal("the identity of the run", to_text(shared_identity(store.identity), sort_keys=True))
    complete = _complete(inputs, progress, team.group)
    if complete:
        log.emit(Note(message="the run is complete: its folder is left unchanged"))
    else:
        log.write_held()
        if team.first:
            _write_settings(inputs)
    log.emit(_started(inputs, trainable, progress.step, complete))
    engine = _engine(inputs, progress, learner, optimizer, store, log, stop, team)
    return Session(inputs, digests, learner, engine, complete)


def _engine(
    inputs: RunInputs,
    progress: Progress,
    learner: Learner,
    optimizer: Optimizer,
    store: CheckpointStore,
    log: EventLog,
    stop: Callable[[], bool],
    team: Team,
) -> Engine:
    """The engine that makes the steps of the run, by its settings."""
    data, model, sampled, train = inputs.data, learner.model, learner.sampled, inputs.config.train
    if sampled is not None:
        evaluate: Callable[[], Means | None] | None = sampled.evaluate
    else:
        evaluate = evaluation_of(inputs, model, learner.objective, log.emit, team)
    return Engine(
        progress=progress,
        model=model,
        passes=Passes(
            trainable=learner.trainable,
            objective=learner.objective,
            source=data.packed if sampled is None else sampled.source,
            seed=train.seed,
            team=team,
        ),
        optimizer=optimizer,
        schedule=_rate_schedule(train, data.steps.total),
        train=train,
        evaluate=evaluate,
        checkpoints=store,
        log=log,
        stop=stop,
        best_by=best_by(inputs.config),
        sample=shown_prompts_of(inputs, model, log.emit) if team.first else None,
    )


def _complete(inputs: RunInputs, progress: Progress, group: Group) -> bool:
    """Whether the run has no step left and its folder holds its result; rank 0 looks, and informs the others."""
    train, steps = inputs.config.train, inputs.data.steps.total
    complete = (
        inputs.resume
        and ended(progress, steps, train.patience)
        and holds_result(inputs.folder, progress.step, train.publish)
    )
    of_first = torch.tensor([float(complete)])
    group.broadcast(of_first)
    return bool(of_first)


def _notes_before(config: RunConfig, optimizer: Optimizer, device: torch.device) -> Iterator[str]:
    """Notes on the settings before the first step."""
    if config.compute.products is Products.INT8:
        slow = config.compute.dtype is Dtype.BFLOAT16 and AMX_FLAG in cpu_flags()
        speed = "is lossy, and slower than this processor's exact products (AMX)" if slow else "is fast and lossy"
        yield f"compute.products int8: the base is multiplied in 8 bits, which {speed}"
    yield from notes(config.train, optimizer.parameters, device)


def _shared_start(
    team: Team, store: CheckpointStore, trainable: Trainable, optimizer: Optimizer, progress: Progress
) -> Progress:
    """Bring every process to the state of rank 0: its weights, its optimiser state and its position in the run."""
    if team.apart:
        share(team.group, trainable, optimizer)
    progress = shared_progress(team.group, progress)
    if not team.apart and not team.first and progress.step > 0:
        store.follow_restored(progress.step, trainable, optimizer)
    return progress


def _started(inputs: RunInputs, trainable: Trainable, resumed_at: int, complete: bool) -> RunStarted:
    """The event with which a run starts, before its first step."""
    config, plan = inputs.config, inputs.prepared.plan
    return RunStarted(
        method=config.method.value,
        steps=inputs.data.steps.total,
        resumed_at=resumed_at,
        examples=inputs.data.rows.row_counts[0],
        trainable=trainable.numbers,
        learning_rate=float(config.train.learning_rate),
        planned_memory_mb=None if plan is None else plan.choice.memory.peak / 1e6,
        planned_seconds=None if plan is None else plan.seconds,
        complete_before=complete,
    )


def _write_settings(inputs: RunInputs) -> None:
    """Write the settings of the run, and which rows it trains on and which it has left out."""
    write_text(inputs.folder.config_file, to_yaml(inputs.config))
    write_hashes(inputs.folder.trained_rows_file, _hashes(inputs))
    skipped = [to_text(asdict(problem), ensure_ascii=False) for problem in inputs.data.rows.skipped]
    file = inputs.folder.skipped_rows_file
    if skipped:
        write_text(file, "".join(f"{line}\n" for line in skipped))
        return
    with reported(file):  # those of a run that ended in this folder before its first checkpoint
        file.unlink(missing_ok=True)


def _hashes(inputs: RunInputs) -> Iterable[bytes]:
    """The hashes of the rows that the run trains on, and of those that the adapter which it starts from was trained
    on."""
    start = inputs.config.train.from_adapter
    own = inputs.data.rows.hashes
    return own if start is None else JoinedHashes((own, FileHashes(trained_rows_of(Path(start)))))


def _checkpoint_store(inputs: RunInputs, digests: InputDigests, learner: Learner) -> CheckpointStore:
    config, device, sampled, shards = inputs.config, learner.model.device, learner.sampled, learner.shards
    identity = identity_of(config, sampled_digest(inputs.origin.files()), inputs.data.rows.digest(), device)
    return CheckpointStore(
        inputs.folder,
        keep=config.train.keep,
        identity=identity,
        defaults=identity_of_defaults(),
        base=digests.base_in_time,
        base_keys=digests.base_keys,
        companion=None if sampled is None else sampled.source,
        state=None if shards is None else StateInParts(shards),
    )


def _rate_schedule(train: TrainSection, steps: int) -> RateSchedule:
    return RateSchedule(
        peak=float(train.learning_rate), steps=steps, warmup=train.warmup, shape=train.schedule, end=train.min_rate
    )


def _as_loaded(config: RunConfig, model: LanguageModel) -> RunConfig:
    """The configuration with the device and the form of the loaded model."""
    dtype = Dtype(str(model.dtype).removeprefix("torch."))
    place = {"device": str(model.device), "dtype": dtype, "threads": torch.get_num_threads()}
    return config.changed("compute", place)


def _optimizer(config: RunConfig, trainable: Trainable, device: torch.device) -> Optimizer:
    optimizer = make_optimizer(trainable.named(), config.train, float(config.train.learning_rate), device)
    if not isinstance(trainable, AdapterTraining) or config.lora.factors is Factors.BOTH:
        return optimizer
    updates = trainable.adapter.updates().values()
    return LoraFA(optimizer, [FactorPair(layer.lora_A, layer.lora_B, layer.scale) for layer in updates])
