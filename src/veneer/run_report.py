"""The report of a training run, written beside its adapter: what was trained, its losses, and what it did to the rows
that were kept for evaluation."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from veneer.adapters.store import read_tokenizer
from veneer.assistant import Assistant, make_assistant
from veneer.config import RunConfig
from veneer.data.records import Record
from veneer.evaluation.page.write import write_report
from veneer.evaluation.report import Report, Sample
from veneer.evaluation.rows import RowSet, last_message, prepare
from veneer.evaluation.scoring import RowScore, judge, row_losses
from veneer.evaluation.statistics.compare import contrast, describe, measures_of
from veneer.evaluation.trained import training_facts
from veneer.events import Stage, Subscriber, broadcast
from veneer.exports.prompts import evaluation_rows
from veneer.generation.batch import generate
from veneer.generation.sampling import Sampling
from veneer.io.checkpoint import open_checkpoint
from veneer.run_folder import RunFolder
from veneer.training import run as training
from veneer.training.session import RunResult
from veneer.training.trainable import AdapterTraining

MOST_ROWS = 200
"""Evaluation rows whose losses are compared, from the first: the report is not to take long."""
SAMPLES = 8
"""Evaluation rows that are answered."""
MOST_TOKENS = 128
"""The longest answer, in tokens."""


def train(
    config: RunConfig,
    *,
    resume: bool = False,
    subscribers: Sequence[Subscriber] = (),
    stop: Callable[[], bool] = lambda: False,
) -> RunResult:
    """Train as `veneer.training.run.train` does, and write `report.html` where the run kept rows for evaluation."""
    result = training.train(config, resume=resume, subscribers=subscribers, stop=stop)
    report_run(result, broadcast(subscribers))
    return result


def report_run(result: RunResult, emit: Subscriber) -> Report | None:
    """Write the report of a run into its folder; None where the run kept no rows for evaluation.

    Raises:
        OutputError: the page cannot be written.
        DataError: the evaluation rows cannot be read any more.
    """
    folder = RunFolder(result.output)
    config = folder.config()
    found, _ = evaluation_rows(config, None)
    if config is None or found is None:
        return None
    begun = time.perf_counter()
    assistant = _trained(result, config)
    rows = prepare(assistant, _usable(found.records, config, assistant)[:MOST_ROWS], emit=emit)
    if not rows.examples:
        return None
    report = _report(assistant, rows, emit)
    facts = training_facts(result.output)
    if facts is not None and result.plan is not None:
        facts["facts"] |= _planned(result)
    report = replace(
        report, trained=facts, seconds=time.perf_counter() - begun, adapters=[str(result.output)],
        warnings=_warnings(len(found.records), report),
    )  # fmt: skip
    write_report(folder.report_file, report, f"Training of {result.output.name}")
    return report


def _usable(records: Sequence[Record], config: RunConfig, assistant: Assistant) -> list[Record]:
    """The rows that the run was evaluated on: without those that are too long for it or cannot be encoded."""
    traces = zip(records, assistant.encoder.traces(records), strict=True)
    return [
        record for record, trace in traces
        if not isinstance(trace, Exception) and len(trace.example.tokens) <= config.data.max_length
    ]  # fmt: skip


def _trained(result: RunResult, config: RunConfig) -> Assistant:
    """The trained model as it stands in memory."""
    checkpoint = open_checkpoint(config.model, revision=config.revision)
    trained = result.trainable
    adapter = trained.adapter if isinstance(trained, AdapterTraining) else None
    tokenizer = checkpoint.tokenizer()
    if adapter is not None:
        tokenizer = read_tokenizer(result.output, tokenizer)
    return make_assistant(result.model, checkpoint, adapter, tokenizer)


def _report(assistant: Assistant, rows: RowSet, emit: Subscriber) -> Report:
    """Losses of all rows and answers of the first ones, with the adapter and without."""
    tuned, answers = _scores(assistant, rows, emit, "trained model"), _answers(assistant, rows, emit, "trained model")
    if assistant.adapter is None:
        return Report(len(rows.examples), describe(measures_of(tuned)), samples=_samples(rows, tuned, answers, None))
    with assistant.as_base():
        base, before = _scores(assistant, rows, emit, "base"), _answers(assistant, rows, emit, "base")
    return Report(
        rows=len(rows.examples),
        base=describe(measures_of(base)),
        adapter=describe(measures_of(tuned)),
        comparison=contrast(measures_of(base), [measures_of(tuned)]),
        samples=_samples(rows, base, before, (tuned, answers)),
        primary="loss",
    )


def _scores(assistant: Assistant, rows: RowSet, emit: Subscriber, who: str) -> list[RowScore]:
    with Stage(emit, f"report: losses of the {who}", total=len(rows.examples), unit="rows") as stage:
        losses = row_losses(assistant.model, rows.examples, on_done=stage.advance)
    return [
        RowScore(loss, supervised, None, None, None, size)
        for (loss, supervised), size in zip(losses, rows.sizes, strict=True)
    ]


def _answers(assistant: Assistant, rows: RowSet, emit: Subscriber, who: str) -> list[str]:
    """The greedy answers to the first rows that have one."""
    questions = [question for question in rows.questions if question is not None][:SAMPLES]
    sampling = Sampling(max_new_tokens=min(rows.max_new_tokens, MOST_TOKENS))
    with Stage(emit, f"report: answers of the {who}", total=len(questions), unit="rows") as stage:
        prompts = [question.prompt for question in questions]
        outputs = generate(
            assistant.model, prompts, sampling=sampling, stop_ids=assistant.stop_ids, on_done=stage.advance
        )
    return [assistant.tokenizer.decode(tokens) for tokens in outputs]


def _samples(
    rows: RowSet,
    base: Sequence[RowScore],
    answers: Sequence[str],
    tuned: tuple[Sequence[RowScore], Sequence[str]] | None,
) -> list[Sample]:
    samples = []
    for place, index in enumerate(rows.asked[: len(answers)]):
        question, record = rows.questions[index], rows.records[index]
        reference = "" if question is None else question.reference
        other = None if tuned is None else tuned[1][place]
        samples.append(
            Sample(
                where=record.where,
                question=last_message(record),
                reference=reference,
                base=answers[place],
                adapter=other,
                base_loss=_mean(base[index]),
                adapter_loss=None if tuned is None else _mean(tuned[0][index]),
                base_exact=float(judge(answers[place], reference)[0]),
                adapter_exact=None if other is None else float(judge(other, reference)[0]),
            )
        )
    return samples


def _mean(score: RowScore) -> float | None:
    return score.loss_sum / score.supervised if score.supervised else None


def _planned(result: RunResult) -> dict[str, Any]:
    plan = result.plan
    return {} if plan is None else {"peak memory as planned, MB": round(plan.choice.memory.peak / 1e6)}


def _warnings(kept: int, report: Report) -> list[str]:
    """What the report leaves out, and where more is to be had."""
    lines = []
    if kept > report.rows:
        lines.append(f"{report.rows} of the {kept} rows that were kept for evaluation are in this report")
    return [
        *lines,
        "here losses are compared and some rows answered; `veneer evaluate` has the measures of the task",
    ]
