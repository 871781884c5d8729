"""A run under way: it locks its folder, writes its log, resumes from a checkpoint, and publishes its result."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel

from veneer.backends.describe import describe_model
from veneer.config import DataSection, RunConfig, TrainSection, to_yaml
from veneer.data.kinds import load_kind
from veneer.data.trained_rows import write_hashes
from veneer.enums import Dtype, Factors, Products, Publish, Recompute
from veneer.errors import ConfigError, Interrupted, OutputError
from veneer.events import EventLog, Level, Note, RunStarted, Subscriber, notes_to
from veneer.hardware import processor, resolve_device
from veneer.io.checkpoint import Checkpoint, open_checkpoint
from veneer.io.files import exclusive, make_output_folder, remove_partial, reported, sampled_digest, sha256, write_text
from veneer.model.language import LanguageModel
from veneer.model.recompute import Recomputation
from veneer.notebook import html_facts
from veneer.out_of_memory import out_of_memory_while
from veneer.planning.forecast import Forecast
from veneer.planning.machine import this_machine
from veneer.planning.plan import Plan
from veneer.rewards.build import reward_files
from veneer.run_folder import RunFolder
from veneer.strict_json import to_text
from veneer.training.asking import evaluation_of, sampler_of
from veneer.training.best import best_by
from veneer.training.checkpoint import CheckpointStore, Companion, Progress
from veneer.training.engine import Engine
from veneer.training.from_adapter import adapter_digests, check_base
from veneer.training.killed import Killed, killed, mark
from veneer.training.lock import InputDigests, write_lock
from veneer.training.loss_scale import first_changes
from veneer.training.memory import peak_memory_mb
from veneer.training.objectives.base import Means, StepObjective
from veneer.training.optim import RateSchedule
from veneer.training.optimizer_file import StateFiles
from veneer.training.optimizers.base import Optimizer
from veneer.training.optimizers.choose import make_optimizer, notes
from veneer.training.optimizers.lorafa import FactorPair, LoraFA
from veneer.training.parallel.group import Alone, Group
from veneer.training.parallel.lanes import Team
from veneer.training.parallel.ranks import ALONE, Ranks
from veneer.training.parallel.start import share, shared_progress, with_lanes
from veneer.training.prepare import LoadRows, PreparedRun, TrainingData, prepare
from veneer.training.result import publish
from veneer.training.reward_adapters import check_bases
from veneer.training.sampled_run import SampledRun
from veneer.training.sharded import ShardedTraining, StateInParts
from veneer.training.steps import lanes_in
from veneer.training.teacher import teacher_digests
from veneer.training.trainable import AdapterTraining, Trainable


@dataclass(frozen=True, slots=True)
class RunResult:
    """What a finished run left behind."""

    output: Path
    """The folder: the adapter (or model), `config.yaml`, `events.jsonl`, `loss.svg`, `checkpoints/`."""
    progress: Progress
    best: Path | None
    """The checkpoint of the best evaluation, if there was any evaluation."""
    model: LanguageModel = field(repr=False)
    """The trained model, as it stands in memory."""
    trainable: Trainable = field(repr=False)
    peak_memory_mb: float
    """Peak memory of the process during the run (`training.memory.restart_peak_memory`)."""
    plan: Plan | None = field(repr=False)
    """The plan that was made before the run. None where transformers computes the model: there is an estimate then."""

    def _repr_html_(self) -> str:
        """The table that notebooks show."""
        progress = self.progress
        facts = {
            "output": self.output, "steps": progress.step, "tokens": progress.tokens, "seconds": progress.seconds,
            "peak memory, MB": self.peak_memory_mb, "loss of the best evaluation": progress.best_loss,
        }  # fmt: skip
        return html_facts("run", facts)


CHOSEN = {
    "lora": ("rank",),
    "train": ("learning_rate", "lanes", "eval_every", "save_every"),
    "compute": ("micro_batch_tokens", "recompute"),
}
"""The settings that a run chooses where they are left open, by section."""


@contextmanager
def threads_of(config: RunConfig) -> Iterator[None]:
    """Let torch compute with the run's threads within the block."""
    before = torch.get_num_threads()
    if config.compute.threads:
        torch.set_num_threads(config.compute.threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass(frozen=True, slots=True)
class LockedFolder:
    """The output folder of a run, held by this process."""

    log: EventLog
    killed: Killed | None
    """The process that had the folder before, if it was killed."""


@contextmanager
def locked_folder(
    config: RunConfig, resume: bool, subscribers: Sequence[Subscriber], ranks: Ranks = ALONE
) -> Iterator[LockedFolder]:
    """Lock the run's output folder for this process, and open its log of events. The folder is rank 0's alone; what
    happens on another rank is told to its subscribers and written nowhere.

    Raises:
        OutputError: it cannot be written, is in use, is the model's, or holds a run that is not gone on with.
    """
    folder = RunFolder(Path(config.output))
    if not ranks.first:
        yield LockedFolder(EventLog(folder.events_file, subscribers), None)
        return
    _refuse_the_models_folder(config.model, folder.path)
    make_output_folder(folder.path)
    with exclusive(folder.path, mark()) as left:
        before = killed(left, folder.each_event())
        _refuse_overwriting(folder, resume)
        with EventLog(folder.events_file, subscribers) as log:
            if before is not None:
                log.emit(Note(message=before.message(), level=Level.WARNING))
            yield LockedFolder(log, before)


def _refuse_the_models_folder(model: str, output: Path) -> None:
    """The result's files are named as a model's: they would take the place of the base model's own."""
    if Path(model).expanduser().exists() and output.exists() and output.samefile(Path(model).expanduser()):
        raise OutputError(f"{output} is the folder of the base model, whose files would be replaced; give another one")


def _refuse_overwriting(folder: RunFolder, resume: bool) -> None:
    if folder.resumable and not resume:
        raise OutputError(
            f"{folder.path} already holds a run; go on with it by --resume, or give another output folder"
        )
    remove_partial(folder.path)
    remove_partial(folder.checkpoints)
    if not folder.resumable:
        # The events of a run that ended before its first checkpoint are not this run's.
        with reported(folder.path):
            folder.events_file.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class RunInputs:
    """A prepared run and the files that it reads."""

    prepared: PreparedRun
    data: TrainingData
    """The rows of the run, which are never supposed ones."""
    origin: Checkpoint
    """The files of the model."""
    resume: bool
    """Whether the run goes on from its newest checkpoint."""

    @property
    def config(self) -> RunConfig:
        """The run's configuration."""
        return self.prepared.config

    @property
    def folder(self) -> RunFolder:
        """The run's output folder."""
        return RunFolder(Path(self.config.output))


def prepare_run(
    config: RunConfig, emit: Subscriber, *, resume: bool = False, rows: LoadRows = load_kind, ranks: Ranks = ALONE
) -> RunInputs:
    """Open the model's files and the rows of a run, and prepare it for training.

    Args:
        config: the run.
        emit: told what was found and chosen, and how far reading the rows is.
        resume: go on with the run in the output folder, if there is one. What it chose then is used again, so that
            another machine's memory never changes a result.
        rows: loads the rows of `config.data`.
        ranks: the place of this process among those of the run. All but rank 0 are given what that has chosen.

    Raises:
        VeneerError: something cannot be used, or does not fit.
    """
    folder = RunFolder(Path(config.output))
    resume = resume and ranks.first and folder.resumable
    if resume:
        config = _as_recorded(config, folder.config(), emit)
    config = with_lanes(config, ranks, emit)
    origin = open_checkpoint(config.model, revision=config.revision)
    check_base(config, origin, emit)
    check_bases(config, origin)
    prepared = prepare(
        config,
        describe_model(origin, config.backend),
        this_machine(resolve_device(config.compute.device), config.compute, ranks.local_world, ranks.world),
        rows,
        emit,
    )
    if prepared.forecast.refusal is not None:
        raise ConfigError(prepared.forecast.refusal)
    assert prepared.data is not None, "rows that are supposed cannot be trained on"
    return RunInputs(prepared, prepared.data, origin, resume)


def _as_recorded(config: RunConfig, recorded: RunConfig | None, emit: Subscriber) -> RunConfig:
    """The configuration with what the run chose before wherever that is left open here, and with the steps that were
    fixed for its time limit if it has one."""
    if recorded is None:
        return config
    if config.train.time_limit is not None:
        fixed = {"time_limit": None, "epochs": None, "steps": recorded.train.steps}
        config = config.model_copy(update={"train": config.train.model_copy(update=fixed)})
        emit(Note(message=f"train.time_limit: the run has {recorded.train.steps:,} steps, fixed when it began"))
    sections: dict[str, BaseModel] = {}
    for name, keys in CHOSEN.items():
        now, then = getattr(config, name), getattr(recorded, name)
        left_open = [key for key in keys if getattr(now, key) in (None, "auto", Recompute.AUTO)]
        sections[name] = now.model_copy(update={key: getattr(then, key) for key in left_open})
    return config.model_copy(update=sections)


@dataclass(frozen=True, slots=True)
class Session:
    """A run that is ready for its next step. The files of its model are closed."""

    config: RunConfig
    """The configuration as `config.yaml` records it: nothing is left open."""
    data: TrainingData
    forecast: Forecast
    digests: InputDigests
    """What `run.lock` will say of the files that were read."""
    model: LanguageModel
    trainable: Trainable
    engine: Engine
    progress: Progress
    log: EventLog

    @property
    def team(self) -> Team:
        """The processes of the run."""
        return self.engine.team

    def end(self) -> RunResult:
        """Publish what the run has made, with its lock; rank 0 does.

        Raises:
            OutputError: a file cannot be written; the checkpoints still hold the weights.
            CheckpointError: a file that was trained from is not readable any more, or another one than it was before
                the run was resumed.
            Interrupted: a signal came, and large files are not hashed yet.
        """
        folder, progress, device = RunFolder(Path(self.config.output)), self.progress, self.model.device
        if self.team.first:
            base = self.engine.checkpoints.check_base()
            if base is None:
                raise Interrupted(
                    "stopped before the result was written, with every step done; go on with --resume (checkpoint: "
                    f"{folder.checkpoint(progress.step)})"
                )
            published = self._choose_weights()
            with out_of_memory_while("writing the result"):
                publish(folder, lambda staged: self._write(staged, published, base), progress, published)
            write_lock(folder, self.config, self.digests, self.data.rows, device, progress)
        return RunResult(
            output=folder.path,
            progress=progress,
            best=None if progress.best_step is None else folder.checkpoint(progress.best_step),
            model=self.model,
            trainable=self.trainable,
            peak_memory_mb=peak_memory_mb(device),
            plan=self.forecast if isinstance(self.forecast, Plan) else None,
        )

    def _write(self, directory: Path, step: int, base: Mapping[str, str]) -> None:
        """Write the files of the result, whose weights stood after a step."""
        if isinstance(self.trainable, ShardedTraining):
            self.trainable.publish(self.engine.checkpoints.folder.checkpoint(step), directory)
        else:
            self.trainable.save(directory, base)

    def _choose_weights(self) -> int:
        """Take the weights that become the result; the step after which they stood."""
        progress, best = self.progress, self.progress.best_step
        if self.config.train.publish is not Publish.BEST or best is None or best == progress.step:
            return progress.step
        self.engine.checkpoints.restore_best(best, self.trainable)
        message = (
            f"the result holds the weights after step {best}, by train.publish: {self.engine.best_by.why(progress)}; "
            f"the run ended after step {progress.step}"
        )
        self.log.emit(Note(message=message))
        return best


def begin(
    inputs: RunInputs,
    model: LanguageModel,
    trainable: Trainable,
    objective: StepObjective,
    log: EventLog,
    stop: Callable[[], bool],
    micro_batches: Sequence[Sequence[int]] = (),
    group: Group | None = None,
    sampled: SampledRun | None = None,
) -> Session:
    """Write `config.yaml`, and restore what a resumed run had reached. On several processes rank 0 does, and the others
    get what it has restored.

    Args:
        inputs: the run and the files that it reads.
        model: the model, with what is trained on it.
        trainable: the part that is trained.
        objective: what is minimised.
        log: the log of the run's events.
        stop: a function that is asked after every step; true ends the run with a checkpoint.
        micro_batches: the sizes of micro-batches of a run that is made again (`Progress.micro_batches`).
        group: the processes of the run, which are connected; None for one that is alone.
        sampled: what a run has that samples its answers; None where its rows have them.

    Raises:
        CheckpointError: the run cannot be gone on with.
        OutputError: the folder cannot be written.
    """
    config, steps, device = _as_loaded(inputs.config, model), inputs.data.steps, model.device
    shards = trainable.shards if isinstance(trainable, ShardedTraining) else None
    team = Team(group or Alone(), lanes_in(config.train), shards)
    if config.compute.products is Products.INT8:
        log.emit(Note(message="compute.products int8: the base is multiplied in 8 bits, which is fast and lossy"))
    if config.compute.recompute is Recompute.LAYERS:
        model.recompute(Recomputation(trainable.generator()))
    optimizer = _optimizer(config, trainable, device)
    for line in notes(config.train, optimizer.parameters, device):
        log.emit(Note(message=line))
    digests = InputDigests(inputs.origin.files() if team.first else [], inputs.data.tokenizer, config)
    state = None if shards is None else StateInParts(shards)
    store = _checkpoint_store(inputs, config, digests, device, None if sampled is None else sampled.source, state)
    progress = Progress(micro_batches=[list(one) for one in micro_batches], loss_scales=first_changes(model.dtype))
    if inputs.resume:
        progress = store.restore(trainable, optimizer, notes_to(log.emit))
    if team.apart:
        share(team.group, trainable, optimizer)
    progress = shared_progress(team.group, progress)
    if not team.apart and not team.first and progress.step > 0:
        store.follow_restored(progress.step, trainable, optimizer)
    if sampled is not None:
        sampled.source.share(progress.step)
    team.group.require_equal("what the run is made of", to_text(_shared_identity(store.identity), sort_keys=True))
    if team.first:
        _write_settings(inputs, config)
    log.emit(_started(inputs, config, trainable, progress.step))
    evaluate: Callable[[], Means | None] | None = None if sampled is None else sampled.evaluate
    if sampled is None:
        evaluate = evaluation_of(config, inputs.data, inputs.origin, model, objective, log.emit, team)
    engine = Engine(
        model=model,
        trainable=trainable,
        objective=objective,
        source=steps if sampled is None else sampled.source,
        optimizer=optimizer,
        schedule=_rate_schedule(config.train, steps.total),
        clip=config.train.clip,
        skip_bad_steps=config.train.skip_bad_steps,
        seed=config.train.seed,
        evaluate=evaluate,
        eval_every=config.train.eval_every or steps.total,
        save_every=config.train.save_every or steps.total,
        checkpoints=store,
        log=log,
        stop=stop,
        best_by=best_by(config),
        patience=config.train.patience,
        team=team,
        sample=sampler_of(config, inputs.data, inputs.origin, model, log.emit) if team.first else None,
    )
    forecast = inputs.prepared.forecast
    return Session(config, inputs.data, forecast, digests, model, trainable, engine, progress, log)


def _started(inputs: RunInputs, config: RunConfig, trainable: Trainable, resumed_at: int) -> RunStarted:
    """What a run says of itself before its first step."""
    plan = inputs.prepared.forecast if isinstance(inputs.prepared.forecast, Plan) else None
    return RunStarted(
        method=config.method.value,
        steps=inputs.data.steps.total,
        resumed_at=resumed_at,
        examples=inputs.data.rows.count,
        trainable=trainable.numbers,
        learning_rate=float(config.train.learning_rate),
        planned_memory_mb=None if plan is None else plan.choice.memory.peak / 1e6,
        planned_seconds=None if plan is None else plan.seconds,
    )


def _write_settings(inputs: RunInputs, config: RunConfig) -> None:
    """Write the settings of the run, and which rows it trains and which it has left out."""
    write_text(inputs.folder.config_file, to_yaml(config))
    write_hashes(inputs.folder.trained_rows_file, inputs.data.rows.hashes)
    if inputs.data.rows.skipped:
        skipped = (to_text(asdict(problem), ensure_ascii=False) for problem in inputs.data.rows.skipped)
        write_text(inputs.folder.skipped_rows_file, "".join(f"{line}\n" for line in skipped))


def _shared_identity(identity: Mapping[str, Any]) -> dict[str, Any]:
    """What all processes of a run have in common: all but the number of each one's GPU."""
    return {key: value for key, value in identity.items() if key != "compute.device"}


def _checkpoint_store(
    inputs: RunInputs,
    config: RunConfig,
    digests: InputDigests,
    device: torch.device,
    companion: Companion | None,
    state: StateFiles | None,
) -> CheckpointStore:
    identity = _identity(config, sampled_digest(inputs.origin.files()), inputs.data.rows.digest(), device)
    defaults = dict(_flatten(RunConfig(model="-", output="-", data=DataSection(file="-")).model_dump(mode="json")))
    defaults["train.lanes"] = 1  # what runs had before there were any
    return CheckpointStore(
        inputs.folder,
        keep=config.train.keep,
        identity=identity,
        defaults=defaults,
        base=digests.base_in_time,
        base_keys=digests.base_keys,
        companion=companion,
        state=state,
    )


def _rate_schedule(train: TrainSection, steps: int) -> RateSchedule:
    return RateSchedule(
        peak=float(train.learning_rate), steps=steps, warmup=train.warmup, shape=train.schedule, end=train.min_rate
    )


def _as_loaded(config: RunConfig, model: LanguageModel) -> RunConfig:
    """The configuration with where and how the loaded model computes."""
    dtype = next(d for d in Dtype if d.value == str(model.dtype).removeprefix("torch."))
    place = {"device": str(model.device), "dtype": dtype, "threads": torch.get_num_threads()}
    return config.model_copy(update={"compute": config.compute.model_copy(update=place)})


def _optimizer(config: RunConfig, trainable: Trainable, device: torch.device) -> Optimizer:
    optimizer = make_optimizer(trainable.named(), config.train, float(config.train.learning_rate), device)
    if not isinstance(trainable, AdapterTraining) or config.lora.factors is Factors.BOTH:
        return optimizer
    updates = trainable.adapter.updates().values()
    return LoraFA(optimizer, [FactorPair(layer.lora_A, layer.lora_B, layer.scale) for layer in updates])


def _identity(config: RunConfig, model_digest: str, data_digest: str, device: torch.device) -> dict[str, Any]:
    """What a resumption must have in common with the run that it goes on with."""
    values = config.model_dump(mode="json")
    # Where results go and how many are kept changes no number of the run; model and data count by what is in them.
    ignored = {
        "model", "revision", "output", "track", "train.from_adapter", "train.other_base", "train.keep",
        "distillation.teacher", "distillation.teacher_adapter",
        "train.save_every", "train.publish", "train.samples_every", "train.sample_prompts", "data.file", "data.sources",
        "data.eval_file", "data.cache", "data.cache_dir", "compute.memory_limit_mb", "compute.rank_timeout",
    }  # fmt: skip
    weights = [source.weight for source in config.data.sources]
    flat = {key: value for key, value in _flatten(values) if key not in ignored}
    return {
        **flat,
        **{f"adapter {name}": digest for name, digest in adapter_digests(config).items()},
        **teacher_digests(config),
        **{f"file of {name}": sha256(file) for name, file in reward_files(config.rewards).items()},
        **({"weights of data.sources": weights} if weights else {}),
        "model digest": model_digest,
        "data digest": data_digest,
        "torch": torch.__version__,
        "processor": processor(device),
    }


def _flatten(values: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    flat: list[tuple[str, Any]] = []
    for key, value in values.items():
        flat += _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else [(prefix + key, value)]
    return json.loads(to_text(flat))  # type: ignore[no-any-return]
