"""Base and adapter on the same rows: `evaluate` is what `veneer evaluate` and the Python API call."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from veneer.assistant import Assistant, AssistantRequest, assistant_request, load_assistant
from veneer.config import ComputeSection
from veneer.data.chat import Example, split_for_evaluation
from veneer.data.in_memory import RowSource, rows_file
from veneer.data.records import Record, read_records
from veneer.enums import Method
from veneer.errors import DataError, listing
from veneer.evaluation.scoring import Question, RowScore, score
from veneer.evaluation.statistics.compare import Comparison, Metric, compare, metrics
from veneer.events import Result, Stage, Subscriber, broadcast, ignore
from veneer.notebook import html_table

EXTRA_TOKENS = 16
"""An answer may be this much longer than the longest reference before it is cut off."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One row with what was expected and what came."""

    where: str
    question: str
    reference: str
    base: str
    adapter: str | None


@dataclass(frozen=True, slots=True)
class Report:
    """The result of an evaluation."""

    rows: int
    base: list[Metric]
    adapter: list[Metric] = field(default_factory=list)
    comparison: list[Comparison] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list, repr=False)
    """Every row that has an answer, in order."""
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """The report as plain values."""
        return asdict(self)

    def _repr_html_(self) -> str:
        """The table that notebooks show."""
        if not self.comparison:
            rows = [(one.name, one.value, one.low, one.high) for one in self.base]
            return html_table(f"{self.rows} rows", ("", "value", "95 % from", "to"), rows)
        return html_table(
            f"{self.rows} rows",
            ("", "base", "adapter", "difference", "95 % from", "to"),
            [(one.name, one.base, one.adapter, one.difference, one.low, one.high) for one in self.comparison],
        )


@dataclass(frozen=True, slots=True)
class RowSet:
    """Rows prepared for scoring: once for base and adapter."""

    records: list[Record]
    examples: list[Example]
    questions: list[Question | None]
    max_new_tokens: int


def prepare(
    assistant: Assistant,
    records: Sequence[Record],
    *,
    max_new_tokens: int | None = None,
    emit: Subscriber = ignore,
) -> RowSet:
    """Encode rows as examples (for the loss) and as questions (for generation).

    Raises:
        DataError: rows that the chat template refuses; all are named.
    """
    examples, questions, problems = [], [], []
    longest = 0
    with Stage(emit, "tokenising rows", total=len(records), unit="rows") as stage:
        for record in records:
            stage.advance()
            try:
                examples.append(assistant.encoder.encode(record))
                questions.append(_question(assistant, record))
            except DataError as error:
                problems.append(str(error))
                continue
            if questions[-1] is not None:
                longest = max(longest, len(assistant.tokenizer.encode(questions[-1].reference)))
    if problems:
        raise DataError(f"{len(problems)} of {len(records)} rows cannot be encoded:\n{listing(problems)}")
    return RowSet(list(records), examples, questions, max_new_tokens or longest + EXTRA_TOKENS)


def _question(assistant: Assistant, record: Record) -> Question | None:
    split = split_for_evaluation(record)
    if split is None:
        return None
    messages, reference = split
    return Question(tuple(assistant.encoder.prompt_tokens(messages, record.tools)), reference)


def score_rows(assistant: Assistant, rows: RowSet, *, emit: Subscriber = ignore, who: str = "model") -> list[RowScore]:
    """Score the assistant, as it is now, on prepared rows; `who` is what it is called where `emit` is told of it."""
    return score(
        assistant.model,
        rows.examples,
        rows.questions,
        decode=assistant.tokenizer.decode,
        stop_ids=assistant.stop_ids,
        max_new_tokens=rows.max_new_tokens,
        emit=emit,
        who=who,
    )


def evaluate_rows(assistant: Assistant, rows: RowSet, *, emit: Subscriber = ignore) -> Report:
    """Score base and (if there is one) adapter on the same rows."""
    begun = time.perf_counter()
    adapter = assistant.adapter
    with adapter.disabled() if adapter else nullcontext():
        base = score_rows(assistant, rows, emit=emit, who="base")
    tuned = score_rows(assistant, rows, emit=emit, who="adapter") if adapter else None
    return make_report(rows, base, tuned, time.perf_counter() - begun)


def make_report(rows: RowSet, base: list[RowScore], tuned: list[RowScore] | None, seconds: float) -> Report:
    """Put the scores of one or two models together."""
    samples = []
    for index, question in enumerate(rows.questions):
        if question is not None:
            record = rows.records[index]
            asked = next((m["content"] for m in reversed(record.messages) if m["role"] == "user"), "")
            answer = None if tuned is None else tuned[index].answer
            samples.append(Sample(record.where, asked, question.reference, base[index].answer or "", answer))
    return Report(
        rows=len(base),
        base=metrics(base),
        adapter=metrics(tuned) if tuned is not None else [],
        comparison=compare(base, tuned) if tuned is not None else [],
        samples=samples,
        seconds=seconds,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationRequest:
    """An evaluation as it is asked for."""

    assistant: AssistantRequest
    """The model, and the adapter that is scored beside it."""
    data: str
    """The rows: JSONL, JSON, CSV or Parquet."""
    limit: int | None = None
    """The number of rows that are scored, from the first; None takes all."""
    max_new_tokens: int | None = None
    """Longest answer, in tokens; None takes a little more than the longest reference has."""


def evaluate(
    model: str,
    data: RowSource,
    *,
    adapter: str | Path | None = None,
    method: Method | str | None = None,
    compute: ComputeSection | None = None,
    limit: int | None = None,
    max_new_tokens: int | None = None,
    subscribers: Sequence[Subscriber] = (),
) -> Report:
    """Score a model, and an adapter beside it, on the rows of a file.

    Args:
        model: directory, GGUF file or hub id.
        data: a file (JSONL, JSON, CSV or Parquet), or dictionaries as its rows are: a list, any iterable, or a
            `datasets.Dataset`.
        adapter: folder of an adapter.
        method: how the base is held, a `Method` or its name; by default as the adapter was trained.
        compute: device and dtype.
        limit: the number of rows to score, from the first.
        max_new_tokens: longest answer; by default a little more than the longest reference.
        subscribers: called with every event: how far loading, tokenising and answering are, and the report.

    Raises:
        VeneerError: model, adapter or data cannot be used.
    """
    assistant = assistant_request(model, adapter, method, compute)
    with TemporaryDirectory() as scratch:
        file = rows_file(data, Path(scratch) / "rows.jsonl")
        request = EvaluationRequest(assistant=assistant, data=str(file), limit=limit, max_new_tokens=max_new_tokens)
        return run_evaluation(request, subscribers=subscribers)


def run_evaluation(request: EvaluationRequest, *, subscribers: Sequence[Subscriber] = ()) -> Report:
    """Carry out a request, as `evaluate` says."""
    emit = broadcast(subscribers)
    records = read_records(request.data)[: request.limit]
    loaded = load_assistant(request.assistant, subscribers=subscribers)
    rows = prepare(loaded, records, max_new_tokens=request.max_new_tokens, emit=emit)
    report = evaluate_rows(loaded, rows, emit=emit)
    emit(Result(verb="evaluate", values=report.to_json()))
    return report
