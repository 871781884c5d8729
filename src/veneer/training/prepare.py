"""A run before any weight is read: open choices are made, impossible settings are refused, and the run is planned.

`train`, `plan`, `sweep`, `compare` and `reproduce` all use `prepare`. So the plan describes the real run, and
everything that makes up a run is created in one place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from veneer.adapters.spec import DECOMPOSING, LoraSpec
from veneer.backends.base import Description
from veneer.config import DataSection, RunConfig
from veneer.data.kind_rows import ROW_PARTS
from veneer.data.rows import Rows, load_rows
from veneer.enums import Init, ObjectiveName, RowKind
from veneer.events import Note, Subscriber, ignore
from veneer.io.tokenizer import Tokenizer
from veneer.loading.expected import check_vocabulary
from veneer.planning.forecast import Forecast, ForeseenRun, make_forecast
from veneer.planning.machine import Machine
from veneer.planning.plan import Plan
from veneer.text.counting import count_of
from veneer.training.evaluations.answers import asked_rows, metric_on
from veneer.training.evaluations.best import best_by
from veneer.training.from_adapter import StartAdapter
from veneer.training.open_choices import DescribedRun, chosen, described
from veneer.training.rewarding.reward_adapters import reward_setups
from veneer.training.rollouts.planned_steps import PromptSteps, Sampled, supposed_prompts
from veneer.training.steps import PackedSteps, packing_of
from veneer.training.supposed_steps import SupposedRows, SupposedSteps
from veneer.training.teaching.teacher import (
    check_teacher,
    compared_tokens,
    described_teacher,
    teacher_setup,
    teaching,
)

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
    run = described(config, description, emit)
    if not isinstance(rows, SupposedRows):
        run = run.dated()
    # Reading the rows may take minutes: what can be refused without them is refused before.
    teacher = described_teacher(run.config)
    taught = _taught(run, teacher)
    taught_by = teacher_setup(run.config, run.description, teacher, machine)
    reward_models = reward_setups(run.config, run.description, machine)
    run_rows = rows if isinstance(rows, SupposedRows) else _loaded_rows(run, rows, emit)
    _note_long_rows(run_rows, run, emit)
    adapted = run.adapted(run_rows)
    planned = ForeseenRun(
        config=adapted.config,
        description=run.description,
        machine=machine,
        lora=adapted.lora,
        targets=adapted.targets,
        teaching=None if taught_by is None else teaching(run.config, taught_by, run_rows),
        reward_models=reward_models,
    )
    steps, forecast = _foreseen(planned, run_rows)
    for line in _notes_before(planned, forecast, steps.total, adapted.reasons):
        emit(Note(message=line))
    data = None
    if not isinstance(steps, SupposedSteps) and isinstance(run.tokenizer, Tokenizer) and isinstance(run_rows, Rows):
        steps.cut_at(forecast.micro_batch_tokens)
        data = TrainingData(rows=steps.rows, steps=steps, tokenizer=run.tokenizer)
    return PreparedRun(
        config=chosen(adapted.config, forecast, steps.total),
        description=run.description,
        start=run.start,
        lora=None if adapted.targets is None else adapted.lora,
        targets=adapted.targets or (),
        forecast=forecast,
        data=data,
        taught=taught,
    )


def _taught(run: DescribedRun, teacher: Description | None) -> int | None:
    """The number of tokens whose probabilities are compared with a teacher's; None for a run without a teacher.

    Raises:
        ConfigError: the teacher does not fit the model.
    """
    if run.config.objective is not ObjectiveName.DISTILLATION:
        return None
    taught = compared_tokens(run.config, teacher, run.description.spec.vocab_size)
    if teacher is not None and run.tokenizer is not None:
        check_teacher(run.config, teacher, run.description, run.tokenizer)
    return taught


def _loaded_rows(run: DescribedRun, load: LoadRows, emit: Subscriber) -> Rows:
    """The rows of a run whose tokenizer is read, with notes about them.

    Raises:
        VeneerError: they cannot be read, or the model or `train.best_metric` does not fit them.
    """
    config, tokenizer = run.config, run.tokenizer
    assert tokenizer is not None
    check_vocabulary(tokenizer, run.description.spec.vocab_size, config.model)
    rows = load(config.data, tokenizer, emit, config.objective.rows)
    if rows.margins and config.objective is not ObjectiveName.REWARD:
        message = f"margin of pairs: only objective reward uses it, and objective {config.objective.value} ignores it"
        emit(Note(message=message))
    by = best_by(config)
    if by.of_answers:
        metric_on(by, asked_rows(rows.eval, tokenizer))
    return rows


def _notes_before(run: ForeseenRun, forecast: Forecast, steps: int, reasons: Sequence[str]) -> Iterator[str]:
    """The notes on a run before it starts: the reasons for its open choices, and its needs."""
    limit, lora = run.config.train.time_limit, run.lora
    if forecast.refusal is None:
        yield from reasons
        if limit is not None:
            measured = f"the number of the {steps:,} steps that fit is measured once the model is loaded"
            yield f"train.time_limit {limit:g} s: {measured}"
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
        SupposedSteps(rows, config.train, len(ROW_PARTS[config.objective.rows]))
        if isinstance(rows, SupposedRows)
        else PackedSteps(rows, config.train, packing_of(config, description))
    )
    return supposed_or_packed, make_forecast(run, supposed_or_packed)


def _note_long_rows(rows: Rows | SupposedRows, run: DescribedRun, emit: Subscriber) -> None:
    """Note the rows beyond the model's context, in which sampled answers must have room too."""
    config, context = run.config, run.description.spec.max_positions
    answer = config.grpo.max_completion_length if config.objective is ObjectiveName.GRPO else 0
    long, first = rows.longer_than(context - answer)
    limit = f"the model's context of {context:,} tokens"
    if answer:
        limit = f"the {context - answer:,} tokens that {limit} leaves with an answer of {answer:,}"
    if long:
        emit(Note(message=f"{count_of(long, 'row')} longer than {limit} ({first})"))
