"""A run before any weight is read: open choices are made, impossible settings are refused, and the run is planned.

`train`, `plan`, `sweep`, `compare` and `reproduce` all use `prepare`. So the plan describes the real run, and
everything that makes up a run is created in one place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date

from veneer.adapters.exclusions import refuse_beyond_linear, refuse_on
from veneer.adapters.layers.experts import target_paths
from veneer.adapters.spec import DECOMPOSING, LoraSpec
from veneer.backends.base import Description
from veneer.backends.choose import refuse_settings
from veneer.config import DataSection, RunConfig
from veneer.data.kind_rows import PARTS
from veneer.data.rows import Rows, load_rows
from veneer.enums import Init, Method, ObjectiveName, Recompute, RowKind, Sharding, Task
from veneer.errors import ConfigError
from veneer.events import Note, Subscriber, ignore, notes_to
from veneer.io.tokenizer import Tokenizer
from veneer.loading.expected import check_vocabulary
from veneer.loading.load import refuse_training
from veneer.model.spec import DecoderSpec
from veneer.planning.forecast import Forecast, ForeseenRun, linears_under, make_forecast
from veneer.planning.machine import Machine
from veneer.planning.plan import Plan
from veneer.text.counting import count_of
from veneer.training.evaluations.answers import asked_rows, metric_on
from veneer.training.evaluations.best import best_by
from veneer.training.from_adapter import StartAdapter
from veneer.training.optimizers.choose import auto_beta2
from veneer.training.recommend import settle
from veneer.training.rewarding.reward_adapters import reward_setups
from veneer.training.rollouts.planned_steps import PromptSteps, Sampled, supposed_prompts
from veneer.training.steps import PackedSteps, examples_per_step, lanes_in, packing_of
from veneer.training.supposed_steps import SupposedRows, SupposedSteps
from veneer.training.teaching.teacher import check_teacher, compared_tokens, described_teacher, teaching

EVALUATIONS_PER_RUN = 10
SLOW_STARTS = frozenset(DECOMPOSING) - {Init.PISSA_FAST}
"""Starts that take seconds for each layer."""

LoadRows = Callable[[DataSection, Tokenizer, Subscriber, RowKind], Rows]
"""Reads and encodes the rows of a run, as `veneer.data.rows.load_rows` does."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingData:
    """The rows of a run, and the tokenizer that encoded them."""

    rows: Rows
    steps: PackedSteps | PromptSteps
    """The rows in steps and micro-batches; for a run that samples its answers, the prompts in steps."""
    tokenizer: Tokenizer
    """The tokenizer, which knows the run's new tokens."""

    @property
    def packed(self) -> PackedSteps:
        """The steps of a run whose rows have their answers."""
        assert isinstance(self.steps, PackedSteps), "sampled answers exist once a step is made"
        return self.steps

    @property
    def asked(self) -> PromptSteps:
        """The steps of a run that samples its answers."""
        assert isinstance(self.steps, PromptSteps), "rows with answers are not sampled"
        return self.steps

    def met(self) -> list[int]:
        """The places of the examples that the run uses for training and evaluation, each once."""
        steps, trained = self.packed, len(self.rows.train)
        numbers = (number for step in range(1, steps.first_steps + 1) for number in steps.numbers(step))
        return [*dict.fromkeys(numbers), *range(trained, trained + len(self.rows.eval))]


@dataclass(frozen=True, kw_only=True, slots=True)
class PreparedRun:
    """A run before any weight is read."""

    config: RunConfig
    """The configuration, with a value for every choice that was left to the program, except those that only the loaded
    model can make."""
    description: Description
    """The model, with rows for the run's new tokens."""
    start: StartAdapter | None
    """The adapter that the run starts from; None if it starts from no adapter."""
    lora: LoraSpec | None
    """The adapter; None if all weights are trained."""
    targets: tuple[str, ...]
    """The paths that get an update."""
    forecast: Forecast
    """The plan, or an estimate if no exact plan is possible. Its `refusal` says why the run does not fit."""
    data: TrainingData | None
    """The rows that are trained on; None if rows were only supposed."""
    taught: int | None = None
    """The number of tokens whose probabilities are compared with a teacher's; None for a run without a teacher."""

    @property
    def plan(self) -> Plan | None:
        """The plan; None if there is only an estimate."""
        return self.forecast if isinstance(self.forecast, Plan) else None


def prepare(
    config: RunConfig,
    description: Description,
    machine: Machine,
    rows: LoadRows | SupposedRows = load_rows,
    emit: Subscriber = ignore,
) -> PreparedRun:
    """Make the open choices, refuse what cannot work, and plan what the run needs. No weight is read.

    Args:
        config: the run.
        description: the model, and what is possible with it.
        machine: the machine that computes the run.
        rows: loads the rows of `config.data`; or supposed rows, for a plan without data.
        emit: receives everything that was found and chosen, and the progress of reading the rows.

    Raises:
        VeneerError: something in the configuration does not exist, or cannot be used. A run that does not fit into the
            memory is not an error here; the forecast says so.
    """
    notice = notes_to(emit)
    start = StartAdapter.of(config)
    if start is not None:
        config = start.settles(config)
    for note in description.notes:
        notice(note)
    config = config.model_copy(update={"backend": description.backend})
    _refuse_settings(config, description)
    if start is not None and description.stored is None:
        start.warn_of_other_form(config, emit)
    config = _as_stored(config, description, emit)
    config, description, tokenizer = _with_new_tokens(config, description)
    if isinstance(rows, SupposedRows):
        found: Rows | SupposedRows = rows
    else:
        config, tokenizer = _dated(config, tokenizer or description.tokenizer())
        found = _loaded_rows(config, description, tokenizer, rows, emit)
    answer = config.grpo.max_completion_length if config.objective is ObjectiveName.GRPO else 0
    _note_long_rows(found, description.spec.max_positions, answer, emit)
    teacher = described_teacher(config)
    taught = _taught(config, teacher, description, tokenizer)
    lora, targets = _adapter(config, description, start)
    adapted = () if targets is None else linears_under(description, lora.with_rank(1), targets)
    width, tokens = description.spec.hidden_size, _row_tokens(config, found)
    config, reasons = settle(config, width, adapted, found.in_epoch, found.completion_tokens, tokens)
    if targets is not None:
        lora = _settled_adapter(lora, config, description, targets)
    planned = ForeseenRun(
        config=config,
        description=description,
        machine=machine,
        lora=lora,
        targets=targets,
        teaching=teaching(config, description, teacher, machine, found),
        reward_models=reward_setups(config, description, machine),
    )
    steps, forecast = _foreseen(planned, found)
    for line in _told(planned, forecast, steps.total, reasons):
        notice(line)
    data = None
    if not isinstance(steps, SupposedSteps) and isinstance(tokenizer, Tokenizer) and isinstance(found, Rows):
        steps.cut_at(forecast.micro_batch_tokens)
        data = TrainingData(rows=steps.rows, steps=steps, tokenizer=tokenizer)
    return PreparedRun(
        config=_chosen(config, forecast, steps.total),
        description=description,
        start=start,
        lora=None if targets is None else lora,
        targets=targets or (),
        forecast=forecast,
        data=data,
        taught=taught,
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
    best_by(config)  # refuses a metric that the objective does not have


def _taught(
    config: RunConfig, teacher: Description | None, description: Description, tokenizer: Tokenizer | None
) -> int | None:
    """The number of tokens whose probabilities are compared with a teacher's; None for a run without a teacher.

    Raises:
        ConfigError: the teacher does not fit the model.
    """
    if config.objective is not ObjectiveName.DISTILLATION:
        return None
    taught = compared_tokens(config, teacher, description.spec.vocab_size)
    if teacher is not None and tokenizer is not None:
        check_teacher(config, teacher, description, tokenizer)
    return taught


def _loaded_rows(
    config: RunConfig, description: Description, tokenizer: Tokenizer, rows: LoadRows, emit: Subscriber
) -> Rows:
    """The rows of a run, with notes about them.

    Raises:
        VeneerError: they cannot be read, or the model or `train.best_metric` does not fit them.
    """
    check_vocabulary(tokenizer, description.spec.vocab_size, config.model)
    found = rows(config.data, tokenizer, emit, config.objective.rows)
    if found.margins and config.objective is not ObjectiveName.REWARD:
        message = f"margin of pairs: only objective reward uses it, and objective {config.objective.value} ignores it"
        emit(Note(message=message))
    by = best_by(config)
    if by.of_answers:
        metric_on(by, asked_rows(found.eval, tokenizer))
    return found


def _told(run: ForeseenRun, forecast: Forecast, steps: int, reasons: Sequence[str]) -> Iterator[str]:
    """The notes on a run before it starts: the reasons for its open choices, and its needs."""
    limit, lora = run.config.train.time_limit, run.lora
    if forecast.refusal is None:
        yield from reasons
        if limit is not None:
            said = f"the number of the {steps:,} steps that fit is measured once the model is loaded"
            yield f"train.time_limit {limit:g} s: {said}"
        yield from forecast.lines()
    if run.targets is not None and lora.init in SLOW_STARTS:
        yield f"lora.init {lora.init.value}: decomposing every adapted layer, which takes a while"


def _foreseen(
    run: ForeseenRun, rows: Rows | SupposedRows
) -> tuple[SupposedSteps | PackedSteps | PromptSteps, Forecast]:
    """The steps of a run and what they need. Sampled answers are packed with all others to their prompt, or in the
    largest groups that fit."""
    config, description = run.config, run.description
    if config.objective is ObjectiveName.GRPO:
        settings = config.grpo
        sampled = Sampled(
            num_generations=settings.num_generations,
            longest=settings.max_completion_length,
            iterations=settings.num_iterations,
        )
        if isinstance(rows, SupposedRows):
            rows = supposed_prompts(rows)
        packing = packing_of(config, description)
        for piece in sampled.pieces():
            steps = PromptSteps(rows, config.train, packing, sampled, piece)
            forecast = make_forecast(run, steps)
            if forecast.refusal is None:
                break
        return steps, forecast
    supposed_or_packed = (
        SupposedSteps(rows, config.train, len(PARTS[config.objective.rows]))
        if isinstance(rows, SupposedRows)
        else PackedSteps(rows, config.train, packing_of(config, description))
    )
    return supposed_or_packed, make_forecast(run, supposed_or_packed)


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
    said = (
        f"{description.source} is stored quantised ({stored.scheme.value}{dense}): the base is used as it is, "
        "and quant and method have no effect on it"
    )
    emit(Note(message=said))
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


def _dated(config: RunConfig, tokenizer: Tokenizer) -> tuple[RunConfig, Tokenizer]:
    """The run and its tokenizer with the date for the chat template, if that asks for the time."""
    if not tokenizer.asks_for_time:
        return config, tokenizer
    day = config.data.template_date
    # Today's local date, which is what a template gets when no date is set.
    day = date.today() if day == "auto" else day
    return config.changed("data", {"template_date": day}), replace(tokenizer, template_date=day)


def _adapter(
    config: RunConfig, description: Description, start: StartAdapter | None
) -> tuple[LoraSpec, tuple[str, ...] | None]:
    """The adapter, whose rank may still be open, and the paths that it updates; None if all weights are trained.

    Raises:
        AdapterError: settings name parts that the model does not have; all are named.
    """
    section, spec = config.lora, description.spec
    if section.rank == "auto":
        section = section.model_copy(update={"rank": 1})
    # A saved embedding stays tied to the head, unless the run starts from an adapter that has trained it separately.
    lora = LoraSpec.of(section, tied=spec.tied_head, keeps_tie=start is None or start.spec.tied_modules)
    if config.objective is ObjectiveName.REWARD:
        lora = replace(lora, task=Task.SEQ_CLS)
    if config.method is Method.FULL:
        return lora, None
    if start is not None:
        lora = start.as_found(lora, config, description)
    return lora, tuple(lora.targets(target_paths(description.linears, spec)))


def _row_tokens(config: RunConfig, rows: Rows | SupposedRows) -> float:
    """The average number of tokens of a training row, over all of its parts."""
    if isinstance(rows, SupposedRows):
        return float(rows.tokens * len(PARTS[config.objective.rows]))
    return float(rows.lengths.mean())


def _settled_adapter(lora: LoraSpec, config: RunConfig, description: Description, targets: tuple[str, ...]) -> LoraSpec:
    """The adapter with its final rank, which the run and its model allow.

    Raises:
        AdapterError, ConfigError: they do not allow it.
    """
    assert config.lora.rank != "auto"
    lora = replace(lora, rank=config.lora.rank)
    refuse_on(lora, targets, description.spec, config.method)
    if not description.capabilities.beyond_linears:
        refuse_beyond_linear(lora)
    return lora


def _note_long_rows(rows: Rows | SupposedRows, context: int, answer: int, emit: Subscriber) -> None:
    """Note the rows beyond the model's context, of which `answer` tokens are reserved for sampled answers."""
    long, first = rows.longer_than(context - answer)
    limit = f"the model's context of {context:,} tokens"
    if answer:
        limit = f"the {context - answer:,} tokens that {limit} leaves with an answer of {answer:,}"
    if long:
        emit(Note(message=f"{count_of(long, 'row')} longer than {limit} ({first})"))


def interval_of(steps: int) -> int:
    """The number of steps between evaluations, and between checkpoints, if a run leaves it open."""
    return max(1, steps // EVALUATIONS_PER_RUN)


def _chosen(config: RunConfig, forecast: Forecast, steps: int) -> RunConfig:
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
