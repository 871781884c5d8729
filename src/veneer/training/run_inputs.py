"""What a run consists of before any weight is read: its settings, with all choices made, its rows and its model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from veneer.backends.describe import describe_model
from veneer.config import RunConfig
from veneer.data.encoded.chat import stop_tokens
from veneer.data.encoded.encoding import encoder_of
from veneer.data.rows import load_rows
from veneer.enums import Recompute
from veneer.errors import ConfigError
from veneer.events import Note, Subscriber
from veneer.io.checkpoint import Checkpoint, open_checkpoint
from veneer.machine.hardware import resolve_device
from veneer.planning.machine import this_machine
from veneer.processes.ranks import ONE_RANK, Ranks
from veneer.run_folder import RunFolder
from veneer.training.from_adapter import check_start_adapters_base
from veneer.training.parallel.start import with_lanes
from veneer.training.prepare import LoadRows, PreparedRun, TrainingData, prepare
from veneer.training.rewarding.reward_adapters import check_reward_models_base
from veneer.training.teaching.teacher import check_teachers_base

EXAMPLES = "examples_per_step"
CHOSEN = {
    "data": ("template_date",),
    "lora": ("rank",),
    "train": ("learning_rate", "lanes", "eval_every", "save_every", EXAMPLES),
    "compute": ("micro_batch_tokens", "recompute"),
}
"""The settings that a run chooses if they are left open, by section."""


@dataclass(frozen=True, slots=True)
class RunInputs:
    """A prepared run and the files that it reads."""

    prepared: PreparedRun
    data: TrainingData
    """The rows of the run, which are never supposed ones."""
    origin: Checkpoint
    """The files of the model."""
    resume: bool
    """Whether the run continues from its newest checkpoint."""

    @property
    def config(self) -> RunConfig:
        """The run's configuration."""
        return self.prepared.config

    @property
    def folder(self) -> RunFolder:
        """The run's output folder."""
        return RunFolder(Path(self.config.output))

    @property
    def stop_ids(self) -> frozenset[int]:
        """The tokens that end an answer of the model."""
        tokenizer = self.data.tokenizer
        return stop_tokens(tokenizer, self.origin.generation_config, encoder_of(tokenizer))

    def with_config(self, config: RunConfig) -> RunInputs:
        """The run with another configuration, and everything else as prepared."""
        return replace(self, prepared=replace(self.prepared, config=config))


def prepare_run(
    config: RunConfig, emit: Subscriber, *, resume: bool = False, rows: LoadRows = load_rows, ranks: Ranks = ONE_RANK
) -> RunInputs:
    """Open the model's files and the rows of a run, and prepare it for training.

    Args:
        config: the run.
        emit: receives what was found and chosen, and the progress of reading the rows.
        resume: continue the run in the output folder, if there is one. Its earlier choices are used again, so that
            another machine's memory never changes a result.
        rows: loads the rows of `config.data`.
        ranks: the place of this process among those of the run. All but rank 0 get rank 0's choices.

    Raises:
        VeneerError: something cannot be used, or does not fit.
    """
    folder = RunFolder(Path(config.output))
    resume = resume and ranks.first and folder.resumable
    recorded = folder.config() if resume else None
    if recorded is not None:
        config = _as_recorded(config, recorded, emit)
    config = with_lanes(config, ranks, emit)
    by_record = recorded is not None and recorded.model == config.model
    origin = open_checkpoint(config.model, revision=config.revision, named_by=folder.config_file if by_record else None)
    check_start_adapters_base(config, origin, emit)
    check_reward_models_base(config, origin)
    check_teachers_base(config, origin, emit)
    prepared = prepare(
        config,
        describe_model(origin, config.backend),
        this_machine(resolve_device(config.compute.device), config.compute, ranks.local_world, ranks.world),
        rows,
        emit,
    )
    if prepared.forecast.refusal is not None:
        raise ConfigError(prepared.forecast.refusal)
    assert prepared.data is not None, "supposed rows cannot be trained on"
    return RunInputs(prepared, prepared.data, origin, resume)


def with_threads_as_before(config: RunConfig, resume: bool, ranks: Ranks = ONE_RANK) -> RunConfig:
    """The configuration with the number of threads that a resumed run began with, if it is left open: another number
    would add sums in another order. Processes that train together get their number from their launcher.

    Raises:
        ConfigError: the recorded configuration is damaged.
    """
    folder = RunFolder(Path(config.output))
    if not resume or ranks.many or not folder.resumable or config.compute.threads is not None:
        return config
    recorded = folder.config()
    threads = None if recorded is None else recorded.compute.threads
    return config.changed("compute", {"threads": threads})


def _as_recorded(config: RunConfig, recorded: RunConfig, emit: Subscriber) -> RunConfig:
    """The configuration with the earlier choices of the run for everything that is left open here, and with the steps
    that were fixed for its time limit if it has one."""
    if config.train.time_limit is not None:
        fixed = {"time_limit": None, "epochs": None, "steps": recorded.train.steps}
        config = config.changed("train", fixed)
        emit(Note(message=f"train.time_limit: the run has {recorded.train.steps:,} steps, fixed when it began"))
    for name, keys in CHOSEN.items():
        now, then = getattr(config, name), getattr(recorded, name)
        chosen = {key: getattr(then, key) for key in keys if _is_open(key, getattr(now, key))}
        config = config.changed(name, chosen)
    return _held_as_before(config, recorded)


def _held_as_before(config: RunConfig, recorded: RunConfig) -> RunConfig:
    """The configuration of a run that starts from an adapter, with `method` and `quant` as it found them in the
    adapter's record, if they are left out: the record may have changed by now."""
    if config.train.from_adapter is None:
        return config
    method = config.method if "method" in config.model_fields_set else recorded.method
    quant = config.quant if config.quant.model_fields_set else recorded.quant
    return config.model_copy(update={"method": method, "quant": quant})


def _is_open(key: str, value: object) -> bool:
    """Whether the value of one of the settings of CHOSEN leaves it to the run. A missing number of examples does not: a
    step then has the default number, or a number of tokens."""
    return value == "auto" or value is Recompute.AUTO or (value is None and key != EXAMPLES)
