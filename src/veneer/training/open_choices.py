"""The choices that a configuration leaves to the run, and the settings that a model or an adapter decides.

`veneer.training.prepare` asks them in this order: what the model's files and the adapter that the run starts from
decide (`described`), the date, the adapter's rank and the learning rate (for these the rows must be known), and at last
what follows from the plan (`chosen`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date

from veneer.adapters.exclusions import refuse_beyond_linear, refuse_on
from veneer.adapters.layers.experts import target_paths
from veneer.adapters.spec import LoraSpec
from veneer.backends.base import Description
from veneer.backends.choose import refuse_settings
from veneer.config import RunConfig
from veneer.data.kind_rows import ROW_PARTS
from veneer.data.rows import Rows
from veneer.enums import Init, Method, ObjectiveName, Recompute, Sharding, Task
from veneer.errors import ConfigError
from veneer.events import Level, Note, Subscriber
from veneer.io.tokenizer import Tokenizer
from veneer.loading.load import refuse_training
from veneer.model.shape import DecoderSpec
from veneer.planning.forecast import Forecast, linears_under
from veneer.planning.setup import check_adapter
from veneer.quant.schemes import skipped
from veneer.training.evaluations.best import best_by
from veneer.training.from_adapter import StartAdapter
from veneer.training.optimizers.choose import auto_beta2
from veneer.training.recommend import settle
from veneer.training.steps import examples_per_step, lanes_in
from veneer.training.supposed_steps import SupposedRows
from veneer.training.unused_settings import unused_settings

EVALUATIONS_PER_RUN = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class AdaptedRun:
    """A run with its adapter and learning rate."""

    config: RunConfig
    lora: LoraSpec
    """The adapter; it has no meaning without targets."""
    targets: tuple[str, ...] | None
    """The paths that get an update; None if all weights are trained."""
    reasons: Sequence[str]
    """Why the rank and the learning rate are what they are."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DescribedRun:
    """A run and its model, with what the model's files and the adapter that the run starts from decide."""

    config: RunConfig
    description: Description
    """The model, with rows for the run's new tokens."""
    start: StartAdapter | None
    """The adapter that the run starts from; None if it starts from no adapter."""
    lora: LoraSpec
    """The adapter, whose rank may still be open. It has no meaning without targets."""
    targets: tuple[str, ...] | None
    """The paths that get an update; None if all weights are trained."""
    tokenizer: Tokenizer | None
    """The tokenizer, which knows the run's new tokens; None as long as nothing has needed it."""

    def dated(self) -> DescribedRun:
        """The run with its tokenizer, which gets the date for the chat template if that asks for the time."""
        tokenizer = self.tokenizer or self.description.tokenizer()
        if not tokenizer.asks_for_time:
            return replace(self, tokenizer=tokenizer)
        day = self.config.data.template_date
        # Today's local date, which is what a template gets when no date is set.
        day = date.today() if day == "auto" else day
        dated = self.config.changed("data", {"template_date": day})
        return replace(self, config=dated, tokenizer=replace(tokenizer, template_date=day))

    def adapted(self, rows: Rows | SupposedRows) -> AdaptedRun:
        """The run with its adapter, as its model and rows allow.

        Raises:
            AdapterError, ConfigError: settings are not allowed.
        """
        config, description, lora, targets = self.config, self.description, self.lora, self.targets
        linears = () if targets is None else linears_under(description, lora.with_rank(1), targets)
        width, tokens = description.spec.hidden_size, _row_tokens(config, rows)
        config, reasons = settle(config, width, linears, rows.in_epoch, rows.completion_tokens, tokens)
        if targets is not None:
            assert config.lora.rank != "auto"
            lora = replace(lora, rank=config.lora.rank)
            _refuse_adapter(lora, config, description, targets)
        return AdaptedRun(config=config, lora=lora, targets=targets, reasons=reasons)


def described(config: RunConfig, description: Description, emit: Subscriber) -> DescribedRun:
    """The run with the settings that its model's files and the adapter that it starts from decide.

    Args:
        config: the run.
        description: the model, and what is possible with it.
        emit: receives notes on the model and on the settings that have no effect.

    Raises:
        VeneerError: settings do not fit the model, the adapter or each other.
    """
    for unused in unused_settings(config):
        emit(Note(message=unused, level=Level.WARNING))
    start = StartAdapter.of(config, description)
    if start is not None:
        config = start.settles(config, description)
    for note in description.notes:
        emit(Note(message=note))
    config = config.model_copy(update={"backend": description.backend})
    _refuse_settings(config, description)
    if start is not None and description.stored is None:
        start.warn_of_other_form(config, emit)
    config = _as_stored(config, description, emit)
    config, description, tokenizer = _with_new_tokens(config, description)
    lora, targets = _adapter(config, description, start)
    return DescribedRun(
        config=config, description=description, start=start, lora=lora, targets=targets, tokenizer=tokenizer
    )


def _refuse_settings(config: RunConfig, description: Description) -> None:
    """Refuse settings that do not fit the model or each other.

    Raises:
        ConfigError: they do not fit.
    """
    refuse_settings(config, description)
    if config.compute.sharding is Sharding.FULL and description.spec.mixture is not None:
        raise ConfigError(
            f"compute.sharding=full is for dense models, and {description.source} has experts: each process may need "
            "different ones; use compute.sharding=none"
        )
    if config.method is Method.QLORA and description.stored is None:
        spec = description.spec
        linears = description.linears if isinstance(spec, DecoderSpec) else [linear.path for linear in spec.linears]
        skipped(linears, config.quant.skip_modules)  # refuses layers that the model does not have
    best_by(config)  # refuses a metric that the objective does not have


def _as_stored(config: RunConfig, description: Description, emit: Subscriber) -> RunConfig:
    """The configuration for a base whose files may be quantised already: their quantisation replaces `quant`.

    Raises:
        ConfigError: the run needs the weights before quantisation.
    """
    stored = description.stored
    if stored is None:
        return config
    if config.method is Method.FULL:
        refuse_training(description.source, stored.scheme)
    if config.lora.init is Init.LOFTQ:
        raise ConfigError(
            f"lora.init=loftq needs the weights before quantisation, and {description.source} is stored quantised, "
            "without them; use another init, or method=qlora on the model's unquantised checkpoint"
        )
    dense = f", {len(stored.skip_modules)} of its linear layers dense" if stored.skip_modules else ""
    message = (
        f"{description.source} is stored quantised ({stored.scheme.value}{dense}): the base is used as it is, "
        "and quant and method have no effect on it"
    )
    emit(Note(message=message))
    return config.model_copy(update={"quant": stored})


def _with_new_tokens(config: RunConfig, description: Description) -> tuple[RunConfig, Description, Tokenizer | None]:
    """The run and its model with `lora.new_tokens`, whose rows are among the trained ones, and the tokenizer that knows
    these tokens. Without new tokens there is no need to read a tokenizer here.

    Raises:
        ModelError: a text is already a token, or cannot be one.
    """
    texts, spec = config.lora.new_tokens, description.spec
    if not texts or not isinstance(spec, DecoderSpec):
        return config, description, None
    tokenizer = description.tokenizer().with_tokens(texts)
    ids = {token for token in map(tokenizer.backend.token_to_id, texts) if token is not None}
    trained = tuple(sorted({*config.lora.trainable_tokens, *ids}))
    longer = replace(spec, vocab_size=max(spec.vocab_size, tokenizer.vocab_size))
    return config.changed("lora", {"trainable_tokens": trained}), replace(description, spec=longer), tokenizer


def _adapter(
    config: RunConfig, description: Description, start: StartAdapter | None
) -> tuple[LoraSpec, tuple[str, ...] | None]:
    """The adapter, whose rank may still be open, and the paths that it updates; None if all weights are trained.

    Raises:
        AdapterError: settings name parts that the model does not have (all are named), or are not allowed.
    """
    section, spec = config.lora, description.spec
    if section.rank == "auto":
        section = section.model_copy(update={"rank": 2})  # every start can have an even rank
    # A saved embedding stays tied to the head, unless the run starts from an adapter that has trained it separately.
    lora = LoraSpec.of(section, tied=spec.tied_head, keeps_tie=start is None or start.spec.tied_modules)
    if config.objective is ObjectiveName.REWARD:
        lora = replace(lora, task=Task.SEQ_CLS)
    if config.method is Method.FULL:
        return lora, None
    if start is not None:
        lora = start.as_found(lora, config, description)
    targets = tuple(lora.targets(target_paths(description.linears, spec)))
    _refuse_adapter(lora, config, description, targets)
    return lora, targets


def _row_tokens(config: RunConfig, rows: Rows | SupposedRows) -> float:
    """The average number of tokens of a training row, over all of its parts."""
    if isinstance(rows, SupposedRows):
        return float(rows.tokens * len(ROW_PARTS[config.objective.rows]))
    return float(rows.lengths.mean())


def _refuse_adapter(lora: LoraSpec, config: RunConfig, description: Description, targets: tuple[str, ...]) -> None:
    """Refuse an adapter that the run or its model does not allow.

    Raises:
        AdapterError: they do not allow it.
    """
    refuse_on(lora, targets, description.spec, config.method)
    if not description.capabilities.beyond_linears:
        refuse_beyond_linear(lora)
    if isinstance(description.spec, DecoderSpec):
        check_adapter(description.spec, lora, targets)


def interval_of(steps: int) -> int:
    """The number of steps between evaluations, and between checkpoints, if a run leaves it open."""
    return max(1, steps // EVALUATIONS_PER_RUN)


def chosen(config: RunConfig, forecast: Forecast, steps: int) -> RunConfig:
    """The configuration with the value of everything that was left to the program."""
    train, interval = config.train, interval_of(steps)
    chosen_train = {
        "epochs": None,
        "steps": steps,
        "examples_per_step": examples_per_step(train),
        "lanes": lanes_in(train),
        "beta2": auto_beta2(train.optimizer) if train.beta2 == "auto" else train.beta2,
        "eval_every": (train.eval_every or interval) if config.data.evaluates else None,
        "save_every": train.save_every or interval,
    }
    chosen_compute = {
        "micro_batch_tokens": forecast.micro_batch_tokens,
        "recompute": Recompute.LAYERS if forecast.recompute else Recompute.NEVER,
    }
    return config.changed("train", chosen_train).changed("compute", chosen_compute)
