"""Rows prepared for scoring, and the scores of one model on them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from veneer.adapters.overflow import largest_update
from veneer.assistant.assistant import Assistant
from veneer.data.encoded.chat import Example, split_for_evaluation
from veneer.data.forms.record import Record
from veneer.data.group_values import group_of
from veneer.errors import ConfigError, DataError, ModelError, listing
from veneer.evaluation.metrics.base import AnsweredRow, TaskMetric, first_measure, with_results
from veneer.evaluation.metrics.choice import ChoiceRow, choice, choice_rows, list_choices, with_answer
from veneer.evaluation.metrics.choose import CHOICE, ChosenMetrics, fitting_metrics
from veneer.evaluation.scoring import Question, RowScore, example_losses, score
from veneer.evaluation.statistics.compare import measures_of
from veneer.evaluation.statistics.measures import Measure, numbered
from veneer.events import Level, Note, Stage, Subscriber, counted, ignore
from veneer.generation.sampling import Sampling
from veneer.text.counting import count_of
from veneer.text.strict_json import to_text

EXTRA_TOKENS = 16
"""How many tokens an answer may be longer than the longest reference before it is cut off."""


@dataclass(frozen=True, slots=True)
class ChoiceSet:
    """The choices of every row that has an answer."""

    rows: list[ChoiceRow]
    examples: list[Example]
    """Every choice of every row, in order, each in the place of the row's answer."""


@dataclass(frozen=True, slots=True)
class RowSet:
    """Rows prepared for scoring, once for base and adapter."""

    records: list[Record]
    examples: list[Example]
    questions: list[Question | None]
    max_new_tokens: int
    raw: list[Mapping[str, Any]] = field(default_factory=list)
    """The rows as the file has them; empty if they are not known."""
    sizes: list[int] = field(default_factory=list)
    """The UTF-8 bytes of each row's supervised text, without control tokens."""
    choices: ChoiceSet | None = None
    """The choices whose likelihoods are compared; None if none are."""
    warnings: list[str] = field(default_factory=list)
    """Warnings: properties of the rows that make their measures less reliable."""

    @property
    def asked(self) -> list[int]:
        """The indices of the rows that have an answer."""
        return [index for index, question in enumerate(self.questions) if question is not None]

    def answered(self, answers: Sequence[str | None]) -> list[AnsweredRow]:
        """The rows that have a reference, with the given answers: one for each row of the set, or None."""
        rows = []
        for index in self.asked:
            record, question = self.records[index], self.questions[index]
            raw = self.raw[index] if self.raw else {}
            reference = question.reference if question is not None else ""
            rows.append(AnsweredRow(record.where, last_message(record), reference, answers[index] or "", raw))
        return rows

    @property
    def unanswered(self) -> list[AnsweredRow]:
        """The rows that have a reference, with empty answers: before a model has given any."""
        return self.answered([None] * len(self.records))

    def clusters(self, column: str) -> NDArray[np.int64]:
        """The cluster index of each row: rows with equal values in a column form one cluster.

        Raises:
            DataError: rows have no such column.
        """
        values = [group_of(raw.get(column)) for raw in self.raw]
        absent = [one.where for one, value in zip(self.records, values, strict=True) if value is None]
        if absent:
            raise DataError(
                f"--cluster {column}: no such value in {count_of(len(absent), 'row')}:\n{listing(absent, limit=5)}"
            )
        return numbered([value for value in values if value is not None])


@dataclass(frozen=True, slots=True)
class ModelScores:
    """The scores of one model on a set of rows."""

    rows: list[RowScore]
    measures: list[Measure]
    """The measures from the rows' scores, followed by those of the metrics."""
    details: dict[str, Any] = field(default_factory=dict)
    first: str | None = None
    """The first measure of the first metric of answers; None if there is none."""


def last_message(record: Record) -> str:
    """The last message of the user."""
    return next((m["content"] for m in reversed(record.messages) if m["role"] == "user"), "")


def asked_conversation(record: Record) -> str:
    """The text that the last answer of a conversation responds to, for a reader who sees nothing else: a single user
    message as it is, or all turns before the answer with their speakers, and the tools that the answer may call."""
    split = split_for_evaluation(record)
    turns = record.messages if split is None else split[0]
    if len(turns) == 1 and turns[0]["role"] == "user" and not record.tools:
        return last_message(record)
    parts = [f"Tools: {to_text(list(record.tools), ensure_ascii=False)}"] if record.tools else []
    for turn in turns:
        calls = turn.get("tool_calls")
        called = [to_text(calls, ensure_ascii=False)] if calls else []
        text = " ".join([str(turn.get("content") or ""), *called]).strip()
        parts.append(f"{turn['role'].capitalize()}: {text}")
    return "\n\n".join(parts)


def prepare(
    assistant: Assistant,
    records: Sequence[Record],
    *,
    max_new_tokens: int | None = None,
    emit: Subscriber = ignore,
    raw: Sequence[Mapping[str, Any]] = (),
) -> RowSet:
    """Encode rows as examples (for the loss) and as questions (for generation). A warning names rows that are longer
    than the model's context before they are computed, which may take hours.

    Args:
        assistant: the model.
        records: the rows.
        max_new_tokens: the longest answer in tokens; by default a little more than the longest reference, within the
            context.
        emit: receives the progress and the warning.
        raw: the rows as the file has them.

    Raises:
        ConfigError: `max_new_tokens` is more than the model's context.
        DataError: the chat template refuses rows; all are named.
    """
    context = assistant.model.spec.max_positions
    if max_new_tokens is not None:
        Sampling(max_new_tokens=max_new_tokens).check_context(context)
    examples, questions, sizes, problems = [], [], [], []
    longest = 0
    with Stage(emit, "tokenising rows", total=len(records), unit="rows") as stage:
        for record in records:
            stage.advance()
            try:
                example = assistant.encoder.encode(record)
                questions.append(_question(assistant, record))
            except DataError as error:
                problems.append(str(error))
                continue
            examples.append(example)
            sizes.append(len(assistant.tokenizer.decode(example.tokens[example.loss_mask].tolist()).encode()))
            if questions[-1] is not None:
                longest = max(longest, len(assistant.tokenizer.encode(questions[-1].reference)))
    if problems:
        raise DataError(f"{len(problems)} of {count_of(len(records), 'row')} cannot be encoded:\n{listing(problems)}")
    warnings = _beyond_context(examples, questions, context)
    for warning in warnings:
        emit(Note(message=warning, level=Level.WARNING))
    most = max_new_tokens or min(longest + EXTRA_TOKENS, context)
    return RowSet(list(records), examples, questions, most, list(raw), sizes, warnings=warnings)


def _beyond_context(examples: Sequence[Example], questions: Sequence[Question | None], limit: int) -> list[str]:
    found = [
        f"{example.where}: {len(example.tokens):,} tokens"
        for example, question in zip(examples, questions, strict=True)
        if len(example.tokens) > limit or (question is not None and len(question.prompt) >= limit)
    ]
    said = (
        f"{count_of(len(found), 'row')} of {len(examples)} longer than the model's context of {limit:,} tokens, or "
        "without room in it for an answer. The model cannot read texts that long, and scoring them is slow. "
        f"Evaluate on shorter ones:\n{listing(found, limit=5)}"
    )
    return [said] if found else []


def _question(assistant: Assistant, record: Record) -> Question | None:
    split = split_for_evaluation(record)
    if split is None:
        return None
    messages, reference = split
    return Question(tuple(assistant.encoder.prompt_tokens(messages, record.tools)), reference)


def score_rows(assistant: Assistant, rows: RowSet, *, emit: Subscriber, who: str = "model") -> list[RowScore]:
    """Score the assistant in its present state on prepared rows.

    Args:
        assistant: the model.
        rows: the rows.
        emit: receives the progress.
        who: the assistant's name in the progress.

    Raises:
        ModelError: losses are NaN or infinite, so that nothing could be reported; their rows are named.
    """
    scores = score(assistant, rows.examples, rows.questions, max_new_tokens=rows.max_new_tokens, emit=emit, who=who)
    refuse_overflow(assistant, rows.examples, [one.loss_sum for one in scores])
    return [replace(one, bytes=size) for one, size in zip(scores, rows.sizes, strict=True)]


def refuse_overflow(assistant: Assistant, examples: Sequence[Example], losses: Sequence[float]) -> None:
    """Refuse losses that are NaN or infinite, since nothing could be reported from them.

    Args:
        assistant: the model in the state in which it was scored.
        examples: the rows.
        losses: the loss of each row.

    Raises:
        ModelError: there are such losses; their rows are named, and the update that is the likeliest cause.
    """
    broken = [f"{one.where}: {loss}" for one, loss in zip(examples, losses, strict=True) if not math.isfinite(loss)]
    if broken:
        adapter = assistant.adapter
        on = adapter is not None and any(part.enabled for _, part in adapter.modules)
        cause = f" with its adapter ({largest_update(adapter)})" if adapter is not None and on else ""
        raise ModelError(
            f"the model{cause} has a loss that is NaN or infinite on {count_of(len(broken), 'row')}:\n"
            f"{listing(broken, limit=5)}"
        )


def score_model(
    assistant: Assistant, rows: RowSet, chosen: ChosenMetrics, *, emit: Subscriber, who: str
) -> ModelScores:
    """Score the assistant in its present state by rows and by the metrics of a task."""
    scores = score_rows(assistant, rows, emit=emit, who=who)
    choices, losses = [], []
    if rows.choices is not None:
        choices, losses = rows.choices.rows, choice_losses(assistant, rows.choices, emit=emit, who=who)
    answered = rows.answered([one.answer for one in scores])
    return measured(scores, answered, rows.asked, chosen.answers, choices, losses)


def measured(
    scores: Sequence[RowScore],
    answered: Sequence[AnsweredRow],
    places: Sequence[int],
    metrics: Sequence[TaskMetric],
    choices: Sequence[ChoiceRow],
    losses: Sequence[Sequence[float]],
) -> ModelScores:
    """The scores of one model, with the measures of a task.

    Args:
        scores: the scores of all rows.
        answered: the rows that have a reference, with the model's answers.
        places: the indices of these rows among all rows.
        metrics: the metrics of answers; they find nothing if no row has a reference.
        choices: the choices of every row of `answered`, if they are compared by their likelihoods; otherwise empty.
        losses: the loss of every choice of each row, in nats.

    Raises:
        ConfigError: two measures have the same name.
    """
    results = [metric(answered) for metric in metrics] if answered else []
    if choices:
        results.append(choice(choices, losses))
    measures = with_results(measures_of(scores), results, places, len(scores))
    details = {key: value for result in results for key, value in result.details.items()}
    return ModelScores(list(scores), measures, details, first_measure(results))


def fitting(rows: RowSet) -> ChosenMetrics:
    """The metrics that fit the rows (see `fitting_metrics`)."""
    asked = rows.unanswered
    return fitting_metrics(asked, list_choices(asked))


def prepare_choices(assistant: Assistant, rows: RowSet, chosen: ChosenMetrics, *, emit: Subscriber) -> RowSet:
    """The rows with their choices encoded, if metrics compare choices; otherwise the rows unchanged.

    Raises:
        ConfigError: no row has an answer, so there is nothing to choose.
        DataError: see `choice_rows`.
    """
    if not chosen.choice:
        return rows
    asked = rows.unanswered
    if not asked:
        raise ConfigError(
            f"--metric {CHOICE}: none of the {count_of(len(rows.records), 'row')} has an answer, so there are no "
            f"choices to compare; evaluate on rows with answers, or leave {CHOICE!r} out"
        )
    found = choice_rows(asked)
    total = sum(len(one.choices) for one in found)
    with Stage(emit, "tokenising choices", total=total, unit="choices") as stage:
        every = (
            with_answer(rows.records[index], row.reference, text)
            for index, row, one in zip(rows.asked, asked, found, strict=True)
            for text in one.choices
        )
        examples = [assistant.encoder.encode(record) for record in counted(every, stage)]
    return replace(rows, choices=ChoiceSet(found, examples))


def choice_losses(
    assistant: Assistant, choices: ChoiceSet, *, emit: Subscriber, who: str = "model"
) -> list[list[float]]:
    """The loss of every choice of each row, in nats; the arguments are those of `score_rows`."""
    examples = choices.examples
    with Stage(emit, f"comparing choices with the {who}", total=len(examples), unit="choices") as stage:
        losses = iter(
            [
                loss
                for loss, _ in example_losses(assistant.model, examples, on_done=stage.advance, share=assistant.share)
            ]
        )
    return [[next(losses) for _ in one.choices] for one in choices.rows]
