"""The report of a training run, next to its adapter: what was trained, the losses, and how held-out rows changed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from itertools import islice
from statistics import median
from typing import Any

from veneer.assistant.assistant import Assistant, make_assistant
from veneer.config import RunConfig
from veneer.data.forms.record import Record
from veneer.enums import ObjectiveName
from veneer.errors import DataError, OutOfMemory, OutputError
from veneer.evaluation.base_and_adapter import put_together
from veneer.evaluation.page.write import write_report
from veneer.evaluation.report import Report
from veneer.evaluation.rows import ModelScores, RowSet, prepare
from veneer.evaluation.scoring import score
from veneer.evaluation.seen_rows import said_of_seen_rows, seen_rows
from veneer.evaluation.statistics.compare import measures_of
from veneer.evaluation.trained import training_facts
from veneer.event_log import by_step
from veneer.events import Level, Note, Subscriber
from veneer.exports.prompts import evaluation_rows
from veneer.io.checkpoint import open_checkpoint
from veneer.machine.out_of_memory import out_of_memory_while
from veneer.run_folder import RunFolder
from veneer.training.folder.locked_inputs import changed_evaluation_files, recorded_files
from veneer.training.session import RunResult
from veneer.training.sharded import ShardedTraining
from veneer.training.trainable import AdapterTraining

MOST_ROWS = 200
"""The number of evaluation rows whose losses are compared, from the first: the report should not take long."""
SAMPLES = 8
"""The number of evaluation rows that are answered."""
MOST_TOKENS = 128
"""The longest answer, in tokens."""


def report_if_possible(result: RunResult, emit: Subscriber) -> Report | None:
    """Write the report. If it cannot be written, say so: the run is complete nevertheless."""
    try:
        with out_of_memory_while("comparing base and result for the report"):
            return report_run(result, emit)
    except OutOfMemory as error:
        said = f"there is not enough memory for its report: {error}"
    except (DataError, OutputError) as error:
        said = f"its report cannot be written: {error}"
    emit(Note(message=f"the run is complete, but {said}", level=Level.WARNING))
    return None


def report_run(result: RunResult, emit: Subscriber) -> Report | None:
    """Write the report of a run into its folder; None if the run kept no rows for evaluation, or they have changed.

    Raises:
        OutputError: the page cannot be written.
        DataError: the evaluation rows can no longer be read.
        OutOfMemory: there is not enough memory for the answers.
    """
    folder = RunFolder(result.output)
    config = folder.config()
    if config is None or config.objective is ObjectiveName.REWARD:
        return None  # a reward model does not answer, and its curves are in the log
    changed = changed_evaluation_files(folder, config)
    if changed:
        # The content of the file decides which rows are held out: now they would be others, some of which were trained.
        rule = "a report needs the rows that the run has read; `veneer evaluate` measures any others"
        emit(Note(message=f"there is no report: {'; '.join(changed)} since then; {rule}", level=Level.WARNING))
        return None
    found, _ = evaluation_rows(config, None, recorded_files(folder))
    if found is None:
        return None
    if isinstance(result.trainable, ShardedTraining) and result.trainable.shards.cut:
        emit(Note(message="there is no report, because no process holds the whole model; run `veneer evaluate`"))
        return None
    begun = time.perf_counter()
    assistant = _trained(result, config)
    rows = prepare(assistant, _usable(found.records, config, assistant), emit=emit)
    if not rows.examples:
        return None
    report = _report(assistant, rows, emit, begun)
    facts = training_facts(result.output)
    if facts is not None:
        facts["plan"] = _planned(result, folder)
    adapters = [str(result.output)]
    seen = seen_rows(adapters, rows.records)
    warnings = [*said_of_seen_rows(seen, report.rows), *_left_out(len(found.records), report.rows), *report.warnings]
    report = replace(report, trained=facts, adapters=adapters, trained_rows=seen, warnings=warnings)
    write_report(folder.report_file, report, f"Training of {result.output.name}", emit)
    return report


def _usable(records: Sequence[Record], config: RunConfig, assistant: Assistant) -> list[Record]:
    """The first rows that the run was evaluated on, without those that are too long for it or cannot be encoded."""
    with closing(assistant.encoder.traces(records)) as traces:
        usable = (
            record for record, trace in zip(records, traces, strict=True)
            if not isinstance(trace, Exception) and len(trace.example.tokens) <= config.data.max_length
        )  # fmt: skip
        return list(islice(usable, MOST_ROWS))


def _trained(result: RunResult, config: RunConfig) -> Assistant:
    """The trained model as it is in memory."""
    checkpoint, trained = open_checkpoint(config.model, revision=config.revision), result.trainable
    if isinstance(trained, AdapterTraining):
        return make_assistant(result.model, checkpoint, trained.adapter, trained.tokenizer)
    return make_assistant(result.model, checkpoint, None)


def _report(assistant: Assistant, rows: RowSet, emit: Subscriber, begun: float) -> Report:
    """Losses of all rows and answers to the first ones, with and without the adapter."""
    tuned = _scored(assistant, rows, emit, "trained model")
    if assistant.adapter is None:
        return put_together(rows, tuned, [], time.perf_counter() - begun)
    with assistant.as_base():
        base = _scored(assistant, rows, emit, "base")
    return put_together(rows, base, [tuned], time.perf_counter() - begun)


def _scored(assistant: Assistant, rows: RowSet, emit: Subscriber, who: str) -> ModelScores:
    """The losses of all rows, and the greedy answers to the first rows that have a reference; these are too few for
    measures."""
    answered = rows.asked[:SAMPLES]
    scores = score(
        assistant,
        rows.examples,
        [question if index in answered else None for index, question in enumerate(rows.questions)],
        max_new_tokens=min(rows.max_new_tokens, MOST_TOKENS),
        emit=emit,
        who=f"{who}, for the report",
    )
    losses = [replace(one, exact=None, fields=None, bytes=size) for one, size in zip(scores, rows.sizes, strict=True)]
    return ModelScores(scores, measures_of(losses))


def _planned(result: RunResult, folder: RunFolder) -> list[dict[str, Any]]:
    """Memory and time as planned and as measured; empty if there was only an estimate."""
    plan = result.plan
    seconds = by_step(folder.each_event(), "StepDone", "seconds").numbers
    if plan is None or not seconds:
        return []
    memory = plan.choice.memory
    # On a GPU the context is planned, but not measured.
    planned_peak = memory.peak - (0 if plan.setup.device == "cpu" else memory.runtime)
    pairs = {
        "peak memory, MB": (planned_peak / 1e6, result.peak_memory_mb),
        "seconds a step (measured: the median)": (plan.seconds, median(seconds)),
        "seconds of all steps": (plan.seconds * plan.steps, sum(seconds)),
    }
    return [{"name": name, "planned": planned, "measured": measured} for name, (planned, measured) in pairs.items()]


def _left_out(kept: int, reported: int) -> list[str]:
    """What the report leaves out, and where to find more."""
    more = "it compares losses and answers some rows; `veneer evaluate` has the measures of the task"
    if kept == reported:
        return [more]
    return [f"{reported} of the {kept} rows that were kept for evaluation are in this report", more]
