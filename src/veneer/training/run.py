"""A whole training run from its configuration: `train` is what `veneer train` and the Python API call."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from veneer.adapters.combinations import refuse, refuse_beyond_linear
from veneer.adapters.experts import on_experts, target_paths
from veneer.adapters.spec import DECOMPOSING, LoraSpec
from veneer.backends.choose import backend_of, check_hf, said
from veneer.backends.load import describe_hf
from veneer.config import RunConfig, check, to_yaml
from veneer.data.batches import pack
from veneer.data.rows import Rows, load_rows
from veneer.enums import Backend, Factors, Init, Method, Products, Recompute
from veneer.errors import CheckpointError, OutputError
from veneer.events import EventLog, Note, RunStarted, Subscriber
from veneer.hardware import processor, resolve_device
from veneer.io.checkpoint import Checkpoint, open_checkpoint
from veneer.io.files import exclusive, make_output_folder, remove_partial, reported, sampled_digest, write_text
from veneer.io.model_files import recorded_dtype
from veneer.io.tokenizer import Tokenizer
from veneer.load import linear_paths, stored_quantisation
from veneer.model.language import LanguageModel, ModelSpec
from veneer.model.recompute import Recomputation
from veneer.model.spec import spec_from_hf
from veneer.planning.estimate import hf_linears
from veneer.planning.plan import Plan
from veneer.system import heap_kept
from veneer.training.build import as_stored, build, with_new_tokens
from veneer.training.checkpoint import CheckpointStore, Progress
from veneer.training.engine import Engine
from veneer.training.lock import Inputs, write_lock
from veneer.training.memory import peak_memory_mb
from veneer.training.objective import Objective, mean_loss, supervised_cross_entropy
from veneer.training.optim import RateSchedule
from veneer.training.optimizers.base import Optimizer
from veneer.training.optimizers.choose import auto_beta2, make_optimizer, notes
from veneer.training.optimizers.lorafa import FactorPair, LoraFA
from veneer.training.planned import estimated, planned
from veneer.training.recommend import settle, settle_over
from veneer.training.result import CONFIG_FILE, EVENTS_FILE, publish
from veneer.training.steps import PackedSteps, examples_per_step
from veneer.training.trainable import AdapterTraining, Trainable

EVALUATIONS_PER_RUN = 10
SLOW_STARTS = frozenset(DECOMPOSING) - {Init.PISSA_FAST}
"""Starts that take seconds a layer."""
CHECKPOINTS = "checkpoints"
"""Folder of the checkpoints in the output folder."""


@dataclass(frozen=True, slots=True)
class RunResult:
    """What a finished run left behind."""

    output: Path
    """The folder: the adapter (or model), `config.yaml`, `events.jsonl`, `loss.svg`, `checkpoints/`."""
    progress: Progress
    best: Path | None
    """The checkpoint with the lowest evaluation loss, if there was any evaluation."""
    model: LanguageModel
    """The trained model, as it stands in memory."""
    trainable: Trainable
    peak_memory_mb: float
    """Peak memory of the process when training ended."""
    plan: Plan | None
    """What was foreseen before it began; None where transformers computed the model, of which there is an estimate."""


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
        resume: go on from the newest checkpoint in `config.output`; the settings and data must be those of that run.
        subscribers: called with every event (progress bars, trackers).
        stop: asked after every step; true ends the run with a checkpoint.

    Raises:
        VeneerError: of the kind that `veneer.errors` draws, whatever is wrong; nothing that was complete is lost.
    """
    check(config)
    with threads_of(config), heap_kept(), run_folder(config, resume, subscribers) as log:
        return _train(config, Path(config.output), resume, log, stop)


@contextmanager
def threads_of(config: RunConfig) -> Iterator[None]:
    """Within the block torch computes with the run's threads."""
    before = torch.get_num_threads()
    if config.compute.threads:
        torch.set_num_threads(config.compute.threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def run_folder(config: RunConfig, resume: bool, subscribers: Sequence[Subscriber]) -> Iterator[EventLog]:
    """The run's output folder, held for this process, with its log of events.

    Raises:
        OutputError: it cannot be written, is in use, is the model's, or holds a run that is not gone on with.
        CheckpointError: there is nothing to go on with.
    """
    output = Path(config.output)
    _refuse_the_models_folder(config.model, output)
    make_output_folder(output)
    with exclusive(output):
        _refuse_overwriting(output, resume)
        with EventLog(output / EVENTS_FILE, subscribers) as log:
            yield log


def _refuse_the_models_folder(model: str, output: Path) -> None:
    """The result's files are named as a model's: they would take the place of the base model's own."""
    if Path(model).expanduser().exists() and output.exists() and output.samefile(Path(model).expanduser()):
        raise OutputError(f"{output} is the folder of the base model, whose files would be replaced; give another one")


def _refuse_overwriting(output: Path, resume: bool) -> None:
    checkpoints = output / CHECKPOINTS
    begun = any(checkpoints.glob("step-*"))
    if begun and not resume:
        raise OutputError(f"{output} already holds a run; go on with it by --resume, or give another output folder")
    if resume and not begun:
        raise CheckpointError(f"{checkpoints}: no checkpoint to resume from; start without --resume")
    remove_partial(output)
    remove_partial(checkpoints)
    if not resume:
        # The events of a run that ended before its first checkpoint are not this run's.
        with reported(output):
            (output / EVENTS_FILE).unlink(missing_ok=True)


def _train(config: RunConfig, output: Path, resume: bool, log: EventLog, stop: Callable[[], bool]) -> RunResult:
    device = resolve_device(config.compute.device)
    recorded = output / CONFIG_FILE if resume and (output / CONFIG_FILE).is_file() else None
    opened = _open(config, device, recorded, log)
    begun = begin(opened, output, resume, log, stop)
    begun.engine.rehearse(begun.source.largest())
    begun.engine.run(begun.progress)
    return end(opened, begun, output, log)


@dataclass(frozen=True, slots=True)
class Begun:
    """A run that is ready for its next step."""

    engine: Engine
    source: PackedSteps
    progress: Progress
    config: RunConfig
    """With everything resolved, as in `config.yaml`."""


def begin(
    opened: Opened,
    output: Path,
    resume: bool,
    log: EventLog,
    stop: Callable[[], bool],
    objective: Objective = supervised_cross_entropy,
) -> Begun:
    """Resolve what was left open, write `config.yaml`, and restore what a resumed run had reached."""
    rows, model, trainable = opened.rows, opened.model, opened.trainable
    config = _resolved(opened.config, model, rows)
    if config.compute.products is Products.INT8:
        log.emit(Note(message="compute.products int8: the base is multiplied in 8 bits, which is fast and lossy"))
    if config.compute.recompute is Recompute.LAYERS:
        model.recompute(Recomputation(trainable.generator()))
    source = PackedSteps(rows.train, config, by_length=model.spec.by_length)
    optimizer = _optimizer(config, trainable, model.device)
    for line in notes(config.train, optimizer.parameters, model.device):
        log.emit(Note(message=line))
    identity = _identity(config, opened.digest, rows, model.device)
    store = CheckpointStore(output / CHECKPOINTS, keep=config.train.keep, identity=identity)
    progress = Progress()
    if resume:
        progress = store.restore(trainable, optimizer, lambda message: log.emit(Note(message=message)))
    write_text(output / CONFIG_FILE, to_yaml(config))
    log.emit(
        RunStarted(
            method=config.method.value,
            steps=source.total,
            resumed_at=progress.step,
            examples=len(rows.train),
            trainable=sum(parameter.numel() for parameter in trainable.named().values()),
            learning_rate=float(config.train.learning_rate),
        )
    )
    return Begun(_engine(config, opened, source, optimizer, objective, store, log, stop), source, progress, config)


def end(opened: Opened, begun: Begun, output: Path, log: EventLog) -> RunResult:
    """Publish what a run has made."""
    progress = begun.progress
    publish(output, opened.trainable, log.path, progress)
    write_lock(output, begun.config, opened.inputs, opened.rows, opened.model.device, progress.step)
    best = None if progress.best_step is None else begun.engine.checkpoints.path(progress.best_step)
    memory = peak_memory_mb(opened.model.device)
    return RunResult(output, progress, best, opened.model, opened.trainable, memory, opened.plan)


@dataclass(frozen=True, slots=True)
class Opened:
    """What a run is made of."""

    config: RunConfig
    """With micro-batch and recomputation chosen."""
    plan: Plan | None
    rows: Rows
    model: LanguageModel
    trainable: Trainable
    digest: str
    """Of the model's files, which are closed again."""
    inputs: Inputs
    """What `run.lock` will say of the files that were read."""


def _open(config: RunConfig, device: torch.device, recorded: Path | None, log: EventLog) -> Opened:
    """Read rows, plan, and only then the model."""
    foreseen = foresee(config, device, recorded, log)
    config, spec = foreseen.config, foreseen.spec
    model, trainable = build(config, foreseen.rows, foreseen.origin, foreseen.tokenizer, spec, device)
    return over_model(foreseen, model, trainable)


@dataclass(frozen=True, slots=True)
class Foreseen:
    """A run before any weight is read."""

    config: RunConfig
    """With micro-batch and recomputation chosen."""
    plan: Plan | None
    """None where transformers computes the model."""
    rows: Rows
    origin: Checkpoint
    tokenizer: Tokenizer
    """With the run's new tokens."""
    spec: ModelSpec
    """With their rows."""


def over_model(foreseen: Foreseen, model: LanguageModel, trainable: Trainable) -> Opened:
    """The run over a model; its files are no longer held."""
    files = foreseen.origin.files()
    inputs = Inputs(files, foreseen.tokenizer, foreseen.config)
    return Opened(foreseen.config, foreseen.plan, foreseen.rows, model, trainable, sampled_digest(files), inputs)


def foresee(config: RunConfig, device: torch.device, recorded: Path | None, log: EventLog) -> Foreseen:
    """Read rows and plan.

    Args:
        config: the run.
        device: where it runs.
        recorded: the `config.yaml` of the run that is gone on with.
        log: told what was found and chosen.

    Raises:
        VeneerError: something cannot be used, or does not fit.
    """
    origin = open_checkpoint(config.model, revision=config.revision)
    if backend_of(origin.config, config.backend) is Backend.HF:
        return _foresee_hf(config, origin, device, recorded, log)
    config = config.model_copy(update={"backend": Backend.VENEER})
    spec = spec_from_hf(origin.config)
    stored = stored_quantisation(origin, spec)
    if stored is not None:
        config, taken = as_stored(config, origin, stored)
        log.emit(Note(message=taken))
    config, tokenizer, spec = with_new_tokens(config, origin.tokenizer(), spec)
    rows = load_rows(config.data, tokenizer, lambda message: log.emit(Note(message=message)))
    _note_long_rows(rows, spec.max_positions, log)
    config, reasons = settle(config, spec, len(rows.train), rows.completion_tokens)
    if config.method is not Method.FULL:
        lora = LoraSpec.of(config.lora, tied=spec.tied_head)
        targets = lora.targets(target_paths(linear_paths(spec), spec))
        refuse(lora, config.method, experts=on_experts(targets))
    files = recorded_dtype(origin.config)
    config, plan = planned(config, rows, spec, device, recorded, stored=stored is not None, files=files)
    for line in (*reasons, *plan.lines()):
        log.emit(Note(message=line))
    if config.method is not Method.FULL and config.lora.init in SLOW_STARTS:
        slow = f"lora.init {config.lora.init.value}: decomposing every adapted layer, which takes a while"
        log.emit(Note(message=slow))
    return Foreseen(config, plan, rows, origin, tokenizer, spec)


def _foresee_hf(
    config: RunConfig, origin: Checkpoint, device: torch.device, recorded: Path | None, log: EventLog
) -> Foreseen:
    """The same where transformers computes the model: estimated and not planned."""
    log.emit(Note(message=said(origin.config, config.backend)))
    config = config.model_copy(update={"backend": Backend.HF})
    check_hf(config)
    spec, stored = describe_hf(origin)
    bare = {line.path.rpartition(".")[2] for line in spec.linears} & spec.experts
    if bare:
        log.emit(
            Note(
                message=f"layers named {', '.join(sorted(bare))} and experts carry no adapter: experts are one tensor "
                "here, and PEFT means them by these names"
            )
        )
    if stored is not None:
        config, taken = as_stored(config, origin, stored)
        log.emit(Note(message=taken))
    tokenizer = origin.tokenizer()
    rows = load_rows(config.data, tokenizer, lambda message: log.emit(Note(message=message)))
    _note_long_rows(rows, spec.max_positions, log)
    config, reasons = settle_over(
        config, spec, lambda lora: hf_linears(spec, lora), len(rows.train), rows.completion_tokens
    )
    lora = LoraSpec.of(config.lora, tied=spec.tied_head)
    refuse(lora, config.method)
    refuse_beyond_linear(lora)
    config, found = estimated(config, rows, spec, device, recorded, stored=stored is not None)
    for line in (*reasons, *found.lines()):
        log.emit(Note(message=line))
    return Foreseen(config, None, rows, origin, tokenizer, spec)


def _note_long_rows(rows: Rows, limit: int, log: EventLog) -> None:
    long = rows.longer_than(limit)
    if long:
        log.emit(Note(message=f"{len(long)} rows are longer than the model's context of {limit:,} tokens ({long[0]})"))


def _resolved(config: RunConfig, model: LanguageModel, rows: Rows) -> RunConfig:
    """The configuration with everything spelled out that was left to the program."""
    steps = PackedSteps(rows.train, config).total
    interval = max(1, steps // EVALUATIONS_PER_RUN)
    evaluated = bool(config.data.eval_file or config.data.held_out)
    train_section = config.train.model_copy(
        update={
            "epochs": None,
            "steps": steps,
            "examples_per_step": examples_per_step(config.train),
            "beta2": auto_beta2(config.train.optimizer) if config.train.beta2 == "auto" else config.train.beta2,
            "eval_every": (config.train.eval_every or interval) if evaluated else None,
            "save_every": config.train.save_every or interval,
        }
    )
    compute = config.compute.model_copy(
        update={
            "device": str(model.device),
            "dtype": next(d for d in type(config.compute.dtype) if d.value == str(model.dtype).removeprefix("torch.")),
            "threads": torch.get_num_threads(),
        }
    )
    return config.model_copy(update={"train": train_section, "compute": compute})


def _optimizer(config: RunConfig, trainable: Trainable, device: torch.device) -> Optimizer:
    optimizer = make_optimizer(trainable.named(), config.train, float(config.train.learning_rate), device)
    if not isinstance(trainable, AdapterTraining) or config.lora.factors is Factors.BOTH:
        return optimizer
    updates = trainable.adapter.updates().values()
    return LoraFA(optimizer, [FactorPair(layer.lora_A, layer.lora_B, layer.scale) for layer in updates])


def _identity(config: RunConfig, digest: str, rows: Rows, device: torch.device) -> dict[str, Any]:
    """What a resumption must have in common with the run that it goes on with."""
    values = config.model_dump(mode="json")
    # Where results go and how many are kept changes no number of the run; model and data count by what is in them.
    ignored = {
        "model", "revision", "output", "train.keep", "train.save_every", "data.file", "data.eval_file",
        "compute.memory_limit_mb",
    }  # fmt: skip
    flat = {key: value for key, value in _flatten(values) if key not in ignored}
    return {
        **flat,
        "model digest": digest,
        "data digest": rows.digest(),
        "torch": torch.__version__,
        "processor": processor(device),
    }


def _flatten(values: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    flat: list[tuple[str, Any]] = []
    for key, value in values.items():
        flat += _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else [(prefix + key, value)]
    return json.loads(json.dumps(flat))  # type: ignore[no-any-return]


def _engine(
    config: RunConfig,
    opened: Opened,
    source: PackedSteps,
    optimizer: Optimizer,
    objective: Objective,
    store: CheckpointStore,
    log: EventLog,
    stop: Callable[[], bool],
) -> Engine:
    model = opened.model
    train_section = config.train
    evaluated = pack(opened.rows.eval, source.micro_batch_tokens) if opened.rows.eval else []
    return Engine(
        model=model,
        trainable=opened.trainable,
        objective=objective,
        source=source,
        optimizer=optimizer,
        schedule=RateSchedule(
            peak=float(train_section.learning_rate),
            steps=source.total,
            warmup=train_section.warmup,
            shape=train_section.schedule,
            end=train_section.min_rate,
        ),
        clip=train_section.clip,
        seed=train_section.seed,
        evaluate=(lambda: mean_loss(model, evaluated, objective)) if evaluated else None,
        eval_every=train_section.eval_every or source.total,
        save_every=train_section.save_every or source.total,
        checkpoints=store,
        log=log,
        stop=stop,
    )
