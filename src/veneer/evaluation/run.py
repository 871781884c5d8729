"""`veneer evaluate`: an evaluation, from the loading of the model to its report."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from veneer.arguments import check_types, names_given
from veneer.assistant.assistant import Assistant
from veneer.assistant.load import load_assistant
from veneer.assistant.memory import enough_memory
from veneer.assistant.request import assistant_request
from veneer.config import ComputeSection
from veneer.data.files.given_names import shown_name
from veneer.data.files.in_memory import RowSource, file_for_now
from veneer.data.records import read_rows
from veneer.enums import Column, Method, ObjectiveName
from veneer.errors import ConfigError, VeneerError
from veneer.evaluation.base_and_adapter import put_together, score_both
from veneer.evaluation.columns import named_columns, undesirable
from veneer.evaluation.forgetting import (
    KL,
    OpenSuite,
    RowSuite,
    SuiteResult,
    open_suite,
    score_suite,
    suite_result,
)
from veneer.evaluation.gate import GateResult, ReleaseGate, announced, decide, refuse_beyond_shares
from veneer.evaluation.harness import is_task
from veneer.evaluation.judge.questions import AnswerPair
from veneer.evaluation.judge.run import judge as ask_judge
from veneer.evaluation.judge.settings import JudgeSettings
from veneer.evaluation.judge.verdicts import JudgeResult
from veneer.evaluation.metrics.choose import (
    SHARES_OF_ROWS,
    ChosenMetrics,
    named_metrics,
    said_of_missing,
    try_on_references,
)
from veneer.evaluation.page.write import write_report
from veneer.evaluation.report import Report
from veneer.evaluation.request import EvaluationRequest, settle
from veneer.evaluation.rows import (
    ModelScores,
    RowSet,
    asked_conversation,
    fitting,
    prepare,
    prepare_choices,
    score_model,
)
from veneer.evaluation.seen_rows import said_of_seen_rows, seen_rows
from veneer.evaluation.statistics.measures import Measure, numbered
from veneer.evaluation.trained import training_facts
from veneer.events import Level, Note, Result, Subscriber, broadcast, ignore
from veneer.generation.share import WHOLE_SHARE, Share
from veneer.html.assemble import page_begins
from veneer.io.proofs import prove_own_file
from veneer.run_folder import recorded_run

LESS_ROWS = "Fewer rows (--limit) and shorter answers (--max-new-tokens) need less, too."


def evaluate(
    model: str | Path,
    data: RowSource,
    *,
    adapter: str | Path | Sequence[str | Path] | None = None,
    method: Method | str | None = None,
    compute: ComputeSection | None = None,
    limit: int | None = None,
    max_new_tokens: int | None = None,
    metrics: str | Sequence[str] = (),
    cluster: str | None = None,
    suites: str | Sequence[str] = (),
    suite_items: int | None = None,
    gate: str | Path | None = None,
    judge: str | Path | None = None,
    html: str | Path | None = None,
    columns: Mapping[Column, str] | Mapping[str, str] | None = None,
    subscribers: Sequence[Subscriber] = (),
) -> Report:
    """Score a model, and optionally an adapter in comparison with it, on the rows of a file.

    Args:
        model: directory, GGUF file or hub id.
        data: a file, or rows as dictionaries: a list, any iterable, or a `datasets.Dataset`.
        adapter: folder of an adapter, or of several that were trained alike with different seeds.
        method: how the base is held, as a `Method` or its name; by default as the adapter was trained.
        compute: device and dtype.
        limit: the number of rows to score, from the first.
        max_new_tokens: the longest answer; by default a little more than the longest reference.
        metrics: one or several names as `--metric` takes them, the primary one first; by default those that fit the
            rows.
        cluster: the column whose equal values make rows a cluster.
        suites: one or several suites, files of rows, `kl:FILE` or `lm-eval:TASK`, as `--suite` takes them.
        suite_items: items of each generated suite or task of lm-eval; by default what the gate's margins need, or else
            400, and whole tasks.
        gate: a YAML file of margins (docs/evaluation.md); its answer is part of the report.
        judge: a YAML file that names a judge (docs/evaluation.md), which compares the answers in both orders.
        html: the path of a self-contained page with all results. It replaces an earlier page of veneer, and no other
            file.
        columns: maps a `Column` or its name to the rows' own name; by default the mapping of the first adapter's run
            (`data.columns`), if the rows have those names.
        subscribers: called with every event: the progress of loading, tokenising and answering, and the report.

    Raises:
        VeneerError: the model, adapter, data or an input of the judge cannot be used. A judge that fails when it is
            asked raises nothing: the report is complete otherwise, and says so in `judge_error`.
    """
    check_types(evaluate, locals())
    given = [adapter] if isinstance(adapter, str | Path) else list(adapter or ())
    assistant = assistant_request(model, given[0] if given else None, method, compute)
    emit = broadcast(subscribers)
    with file_for_now(data, emit) as file:
        request = EvaluationRequest(
            assistant=assistant,
            data=file,
            limit=limit,
            max_new_tokens=max_new_tokens,
            metrics=names_given(metrics),
            cluster=cluster,
            more_adapters=tuple(Path(one) for one in given[1:]),
            suites=names_given(suites),
            suite_items=suite_items,
            gate=None if gate is None else Path(gate),
            judge=None if judge is None else Path(judge),
            html=None if html is None else Path(html),
            columns=named_columns(columns),
        )
        return run_evaluation(request, emit)


def run_evaluation(request: EvaluationRequest, emit: Subscriber, *, share: Share = WHOLE_SHARE) -> Report:
    """Carry out a request, see `evaluate`. If several processes share the rows, the others call `contribute`."""
    with enough_memory(request.assistant, "evaluating", LESS_ROWS):
        return _evaluated(request, emit, share)


def contribute(request: EvaluationRequest, share: Share) -> None:
    """Compute this process's share of the rows of a request; another process makes the report by `run_evaluation`.

    This process applies no metrics to the answers, since a metric may cost something. The other process alone computes
    a divergence and the tasks of lm-eval.

    Raises:
        VeneerError: model, adapter or data cannot be used.
    """
    with enough_memory(request.assistant, "evaluating", LESS_ROWS):
        settled = settle(request)
        request = settled.request
        loaded, rows, chosen = _loaded(request, ignore, share)
        shared = [name for name in settled.suites if not is_task(name) and not name.startswith(KL)]
        opened = [open_suite(name, settled.items(name), loaded, ignore) for name in shared]
        _score_all(request, loaded, rows, replace(chosen, answers=()), [_silent(one) for one in opened], ignore)


def _silent(suite: OpenSuite) -> OpenSuite:
    """A suite of rows without metrics: another process looks at its answers."""
    return replace(suite, chosen=replace(suite.chosen, answers=())) if isinstance(suite, RowSuite) else suite


def _loaded(request: EvaluationRequest, emit: Subscriber, share: Share) -> tuple[Assistant, RowSet, ChosenMetrics]:
    """The model, the prepared rows, and the metrics that they are scored by."""
    named, pairs = named_metrics(request.metrics), read_rows(request.data, request.columns)[: request.limit]
    loaded = load_assistant(request.assistant, emit, share)
    rows = prepare(
        loaded,
        [record for record, _ in pairs],
        max_new_tokens=request.max_new_tokens,
        emit=emit,
        raw=[raw for _, raw in pairs],
    )
    chosen = named if request.metrics else fitting(rows)
    return loaded, prepare_choices(loaded, rows, chosen, emit=emit), chosen


def _evaluated(request: EvaluationRequest, emit: Subscriber, share: Share) -> Report:
    begun = time.perf_counter()
    if request.html is not None:
        prove_own_file(request.html, page_begins(), "a page of veneer")
    settled = settle(request)
    request, gate = settled.request, settled.gate
    trained = training_facts(request.assistant.adapter)  # finds a record that cannot be read before rows are scored
    loaded, rows, chosen = _loaded(request, emit, share)
    clusters = None if request.cluster is None else rows.clusters(request.cluster)
    count = try_on_references(rows.unanswered, chosen)
    opened = [open_suite(name, settled.items(name), loaded, emit) for name in settled.suites]
    if gate is not None:
        refuse_beyond_shares(gate, [one.name for one in opened if one.share_of is not None], chosen.primary)
    _announce(gate, opened, (chosen.primary, count) if chosen.primary in SHARES_OF_ROWS else None, emit)
    models = _score_all(request, loaded, rows, chosen, opened, emit)
    seconds = time.perf_counter() - begun
    primary = _primary(request, chosen, models[0].scores)
    measured = put_together(
        rows, models[0].scores, [one.scores for one in models[1:]], seconds, clusters=clusters, primary=primary
    )
    suites = _suite_results(opened, models)
    decided = None if gate is None else _decided(gate, measured, suites)
    judged = _Judged() if settled.judge is None else _judged(settled.judge, request, rows, models, clusters, emit)
    folders = [str(one) for one in request.folders]
    seen = seen_rows(folders, rows.records)
    said = said_of_seen_rows(seen, len(rows.records))
    said += said_of_missing(request.metrics, [one.name for one in measured.base])
    warnings = [*said, *_of_labels(request, rows), *measured.warnings, *judged.warnings]
    for warning in warnings:
        if warning not in rows.warnings:  # emitted before the rows were computed
            emit(Note(message=warning, level=Level.WARNING))
    report = replace(
        measured,
        adapters=folders,
        cluster=request.cluster,
        suites=suites,
        gate=decided,
        judge=judged.result,
        judge_error=judged.error,
        trained=trained,
        trained_rows=seen,
        warnings=[*loaded.warnings, *warnings],
    )
    if request.html is not None:
        model = " on ".join([*map(str, request.folders[:1]), request.assistant.model])
        write_report(request.html, report, f"{model}: {Path(shown_name(request.data)).name}", emit)
    emit(Result(verb="evaluate", values=report.to_json()))
    return report


def _of_labels(request: EvaluationRequest, rows: RowSet) -> list[str]:
    """A warning if reference answers are labelled as undesirable. If the adapter's run has an objective other than
    kto, a text or a number under `label` says nothing."""
    run = recorded_run(request.assistant.adapter)
    labelled = run is not None and run.objective is ObjectiveName.KTO
    count = undesirable(rows.raw, request.columns, certain=not labelled)
    said = (
        f"{count} of {len(rows.records)} rows are labelled as undesirable, but their answers are the references "
        "here; evaluate only on rows with desirable answers"
    )
    return [said] if count else []


@dataclass(frozen=True, slots=True)
class _Judged:
    """What came of asking the judge: a result, an error, or, if no judge was given, neither."""

    result: JudgeResult | None = None
    error: str | None = None

    @property
    def warnings(self) -> list[str]:
        """A warning if the judge failed."""
        return [] if self.error is None else [f"the judge failed; everything else was measured: {self.error}"]


def _judged(
    settings: JudgeSettings,
    request: EvaluationRequest,
    rows: RowSet,
    models: Sequence[_Answers],
    clusters: NDArray[np.int64] | None,
    emit: Subscriber,
) -> _Judged:
    """The judge's comparison of the base and the first adapter. An error of the judge is kept and not raised: the other
    results may have taken hours, and hold without a judge."""
    base, adapter = (rows.answered([one.answer for one in model.scores.rows]) for model in models[:2])
    pairs = [
        AnswerPair(one.where, asked_conversation(rows.records[place]), one.reference, one.answer, other.answer)
        for place, one, other in zip(rows.asked, base, adapter, strict=True)
    ]
    own = None if clusters is None else numbered(clusters[rows.asked].tolist())
    try:
        return _Judged(ask_judge(settings, pairs, clusters=own, compute=request.assistant.compute, emit=emit))
    except VeneerError as error:
        return _Judged(error=str(error))


@dataclass(frozen=True, slots=True)
class _Answers:
    """The results of one model on the rows and on every suite."""

    scores: ModelScores
    suites: list[list[Measure]]


def _score_all(
    request: EvaluationRequest,
    loaded: Assistant,
    rows: RowSet,
    chosen: ChosenMetrics,
    suites: Sequence[OpenSuite],
    emit: Subscriber,
) -> list[_Answers]:
    """The results of the base and of each adapter; the first adapter uses the loading of the base."""
    base, tuned = score_both(loaded, rows, chosen, emit=emit)
    models = [_Answers(base, [score_suite(loaded, one, base=True, emit=emit) for one in suites])]
    if tuned is not None:
        models.append(_Answers(tuned, [score_suite(loaded, one, base=False, emit=emit) for one in suites]))
    for folder in request.more_adapters:
        other = load_assistant(replace(request.assistant, adapter=folder), emit, loaded.share)
        scores = score_model(other, rows, chosen, emit=emit, who=f"adapter {folder}")
        models.append(_Answers(scores, [score_suite(other, one, base=False, emit=emit) for one in suites]))
    return models


def _suite_results(suites: Sequence[OpenSuite], models: Sequence[_Answers]) -> list[SuiteResult]:
    """The comparison of the base and all adapters on every suite."""
    base, *adapters = (one.suites for one in models)
    return [suite_result(one, base[place], [own[place] for own in adapters]) for place, one in enumerate(suites)]


def _decided(gate: ReleaseGate, measured: Report, suites: Sequence[SuiteResult]) -> GateResult:
    """The gate's answer."""
    primary = next((one for one in measured.comparison if one.name == measured.primary), None)
    return decide(gate, primary, {one.name: one.comparison for one in suites})


def _announce(
    gate: ReleaseGate | None, suites: Sequence[OpenSuite], primary: tuple[str, int] | None, emit: Subscriber
) -> None:
    """Before anything is computed, warn about margins that have too few rows."""
    if gate is not None:
        counts = {one.name: one.share_of for one in suites if one.name in gate.suites and one.share_of is not None}
        for line in announced(gate, counts, primary):
            emit(Note(message=line, level=Level.WARNING))


def _primary(request: EvaluationRequest, chosen: ChosenMetrics, base: ModelScores) -> str | None:
    """The measure that decides: that of the first named metric, or the one that fits the rows.

    Raises:
        ConfigError: the first named metric gave nothing, so that another measure would decide instead.
    """
    names = [one.name for one in base.measures]
    if chosen.primary is None and request.metrics:
        if base.first is None:
            raise ConfigError(
                f"--metric {request.metrics[0]}: gave no score for any answer of the base, but is named first and so "
                "decides; name another metric first, or let it give numbers"
            )
        return base.first
    if request.metrics and chosen.primary not in names:
        raise ConfigError(
            f"--metric {request.metrics[0]}: these rows have no {chosen.primary}, but it is named first and so "
            "decides; name a metric first that they have, or give rows with answers"
        )
    return chosen.primary if chosen.primary in names else None
