"""Rows prepared for scoring, and what one model does on them."""

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
"""An answer may be this much longer than the longest reference before it is cut off."""


@dataclass(frozen=True, slots=True)
class ChoiceSet:
    """The choices of every row that has an answer."""

    rows: list[ChoiceRow]
    examples: list[Example]
    """Every choice of every row, in order, in the place of the row's answer."""


@dataclass(frozen=True, slots=True)
class RowSet:
    """Rows prepared for scoring: once for base and adapter."""

    records: list[Record]
    examples: list[Example]
    questions: list[Question | None]
    max_new_tokens: int
    raw: list[Mapping[str, Any]] = field(default_factory=list)
    """The rows as the file has them; empty where they are not known."""
    sizes: list[int] = field(default_factory=list)
    """UTF-8 bytes of each row's supervised text, without control tokens."""
    choices: ChoiceSet | None = None
    """The choices whose likelihoods are compared; None where none are."""
    warnings: list[str] = field(default_factory=list)
    """What of the rows makes their measures less than they seem."""

    @property
    def asked(self) -> list[int]:
        """The numbers of the rows that have an answer."""
        return [index for index, question in enumerate(self.questions) if question is not None]

    def answered(self, answers: Sequence[str | None]) -> list[AnsweredRow]:
        """The rows that have an answer, with those that were given: one for each row of the set, or None."""
        rows = []
        for index in self.asked:
            record, question = self.records[index], self.questions[index]
            raw = self.raw[index] if self.raw else {}
            reference = question.reference if question is not None else ""
            rows.append(AnsweredRow(record.where, last_message(record), reference, answers[index] or "", raw))
        return rows

    @property
    def unanswered(self) -> list[AnsweredRow]:
        """The rows that have an answer, before a model has given any: with empty ones."""
        return self.answered([None] * len(self.records))

    def clusters(self, column: str) -> NDArray[np.int64]:
        """The number of each row's cluster: rows with equal values in a column are one.

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
    """What one model did on a set of rows."""

    rows: list[RowScore]
    measures: list[Measure]
    """The measures of the rows' scores, and after them those of the metrics."""
    details: dict[str, Any] = field(default_factory=dict)
    first: str | None = None
    """The first measure of the first metric of answers; None where there is none."""


def last_message(record: Record) -> str:
    """The last message of the user."""
    return next((m["content"] for m in reversed(record.messages) if m["role"] == "user"), "")


def asked_conversation(record: Record) -> str:
    """What the last answer of a conversation answers, for a reader who sees nothing else: the message of a user that is
    alone, or all turns before the answer with their speakers, and the tools that it may call."""
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
    """Encode rows as examples (for the loss) and as questions (for generation). Rows that are longer than the model's
    context are told of before they are computed, which may take hours.

    Args:
        assistant: the model.
        records: the rows.
        max_new_tokens: longest answer; by default a little more than the longest reference, within the context.
        emit: told how far it is.
        raw: the rows as the file has them.

    Raises:
        ConfigError: `max_new_tokens` is more than the model's context.
        DataError: rows that the chat template refuses; all are named.
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
        "without room in it for an answer: what is measured there is no text that the model can read, and takes long. "
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
    """Score the assistant, as it is now, on prepared rows.

    Args:
        assistant: the model.
        rows: what it is scored on.
        emit: told how far it is.
        who: what the assistant is called where `emit` is told of it.

    Raises:
        ModelError: losses are NaN or infinite, of which nothing could be reported; their rows are named.
    """
    scores = score(
        assistant.model,
        rows.examples,
        rows.questions,
        decode=assistant.tokenizer.decode,
        stop_ids=assistant.stop_ids,
        max_new_tokens=rows.max_new_tokens,
        emit=emit,
        who=who,
        share=assistant.share,
    )
    refuse_overflow(assistant, rows.examples, [one.loss_sum for one in scores])
    return [replace(one, bytes=size) for one, size in zip(scores, rows.sizes, strict=True)]


def refuse_overflow(assistant: Assistant, examples: Sequence[Example], losses: Sequence[float]) -> None:
    """Refuse losses that are NaN or infinite: nothing could be reported of them.

    Args:
        assistant: the model, as it was scored.
        examples: the rows.
        losses: the loss of each.

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
    """Score the assistant, as it is now, by rows and by the metrics of a task."""
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
    """The scores of one model with the measures of a task.

    Args:
        scores: of all rows.
        answered: the rows that have an answer, with the model's.
        places: where these rows stand among all.
        metrics: of answers; they find nothing where no row has one.
        choices: of every row of `answered`, where they are compared by their likelihoods; else empty.
        losses: nats of every choice.

    Raises:
        ConfigError: two measures have one name.
    """
    results = [metric(answered) for metric in metrics] if answered else []
    if choices:
        results.append(choice(choices, losses))
    measures = with_results(measures_of(scores), results, places, len(scores))
    details = {key: value for result in results for key, value in result.details.items()}
    return ModelScores(list(scores), measures, details, first_measure(results))


def fitting(rows: RowSet) -> ChosenMetrics:
    """The metrics that rows call for (see `fitting_metrics`)."""
    asked = rows.unanswered
    return fitting_metrics(asked, list_choices(asked))


def prepare_choices(assistant: Assistant, rows: RowSet, chosen: ChosenMetrics, *, emit: Subscriber) -> RowSet:
    """The rows with their choices encoded, where metrics compare choices; else the rows as they are.

    Raises:
        ConfigError: no row has an answer, so that there is nothing to choose.
        DataError: see `choice_rows`.
    """
    if not chosen.choice:
        return rows
    asked = rows.unanswered
    if not asked:
        raise ConfigError(
            f"--metric {CHOICE}: none of the {count_of(len(rows.records), 'row')} has an answer, so that there are no "
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
    """Nats of every choice of each row; the arguments are those of `score_rows`."""
    examples = choices.examples
    with Stage(emit, f"comparing choices with the {who}", total=len(examples), unit="choices") as stage:
        losses = iter(
            [
                loss
                for loss, _ in example_losses(assistant.model, examples, on_done=stage.advance, share=assistant.share)
            ]
        )
    return [[next(losses) for _ in one.choices] for one in choices.rows]
