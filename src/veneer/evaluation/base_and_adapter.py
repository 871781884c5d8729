"""A base and its adapters on the same rows: the results of each, and their comparison."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from veneer.assistant.assistant import Assistant
from veneer.evaluation.metrics.choose import ChosenMetrics
from veneer.evaluation.report import Report, Sample
from veneer.evaluation.rows import ModelScores, RowSet, last_message, score_model
from veneer.evaluation.scoring import RowScore
from veneer.evaluation.statistics.compare import contrast, describe, measures_of
from veneer.evaluation.statistics.measures import Measure, scale_of_all
from veneer.evaluation.statistics.power import said_of_few
from veneer.events import Subscriber

NO_METRICS = ChosenMetrics((), choice=False, primary=None)
"""No metrics except those that every evaluation has."""


def evaluate_rows(assistant: Assistant, rows: RowSet, *, emit: Subscriber) -> Report:
    """Score base and (if there is one) adapter on the same rows, by exact answers, fields and loss."""
    begun = time.perf_counter()
    base, tuned = score_both(assistant, rows, NO_METRICS, emit=emit)
    return put_together(rows, base, [] if tuned is None else [tuned], time.perf_counter() - begun)


def score_both(
    assistant: Assistant, rows: RowSet, chosen: ChosenMetrics, *, emit: Subscriber
) -> tuple[ModelScores, ModelScores | None]:
    """The scores of the base on the rows, and those of the adapter if there is one."""
    with assistant.as_base():
        base = score_model(assistant, rows, chosen, emit=emit, who="base")
    return base, score_model(assistant, rows, chosen, emit=emit, who="adapter") if assistant.adapter else None


def make_report(rows: RowSet, base: list[RowScore], tuned: list[RowScore] | None, seconds: float) -> Report:
    """The report from the scores of one or two models."""
    models = [ModelScores(scores, measures_of(scores)) for scores in (base, tuned) if scores is not None]
    return put_together(rows, models[0], models[1:], seconds)


def put_together(
    rows: RowSet,
    base: ModelScores,
    adapters: Sequence[ModelScores],
    seconds: float,
    *,
    clusters: NDArray[np.int64] | None = None,
    primary: str | None = None,
) -> Report:
    """The report on a base and its adapters (one for each seed).

    Args:
        rows: the rows, the same for all models.
        base: the scores of the base.
        adapters: the scores of each adapter.
        seconds: how long scoring took.
        clusters: the cluster index of each row, or None to make each row its own cluster.
        primary: the measure that was declared beforehand; None takes the first one.
    """
    base, *adapters = _of_one_scale([base, *adapters])
    tuned = adapters[0] if adapters else None
    names = [one.name for one in base.measures]
    decides = primary or (names[0] if names else None)
    details = {"base": base.details} | ({} if tuned is None else {"adapter": tuned.details})
    return Report(
        rows=len(base.rows),
        base=describe(base.measures, clusters),
        adapter=[] if tuned is None else describe(tuned.measures, clusters),
        comparison=contrast(base.measures, [one.measures for one in adapters], clusters, primary) if adapters else [],
        samples=_samples(rows, base.rows, None if tuned is None else tuned.rows),
        seconds=seconds,
        primary=decides,
        details={who: found for who, found in details.items() if found},
        warnings=[*rows.warnings, *_of_few(base, decides, clusters)],
    )


def _of_one_scale(models: Sequence[ModelScores]) -> list[ModelScores]:
    """The models with their measures on the scale that contains those of all models."""
    named: dict[str, list[Measure]] = {}
    for one in (one for model in models for one in model.measures):
        named.setdefault(one.name, []).append(one)
    scales = {name: scale_of_all(measures) for name, measures in named.items()}
    return [
        replace(model, measures=[replace(one, scale=scales[one.name]) for one in model.measures]) for model in models
    ]


def _samples(rows: RowSet, base: Sequence[RowScore], tuned: Sequence[RowScore] | None) -> list[Sample]:
    """The rows that were answered."""
    samples = []
    for index in rows.asked:
        record, question, one = rows.records[index], rows.questions[index], base[index]
        if one.answer is None:
            continue
        other = None if tuned is None else tuned[index]
        samples.append(
            Sample(
                where=record.where,
                question=last_message(record),
                reference="" if question is None else question.reference,
                base=one.answer,
                adapter=None if other is None else other.answer,
                base_loss=_mean_loss(one),
                adapter_loss=None if other is None else _mean_loss(other),
                base_exact=one.exact,
                adapter_exact=None if other is None else other.exact,
            )
        )
    return samples


def _mean_loss(row: RowScore) -> float | None:
    return row.loss_sum / row.supervised if row.supervised else None


def _of_few(base: ModelScores, decides: str | None, clusters: NDArray[np.int64] | None) -> list[str]:
    """A warning if few rows, or clusters, count for the measure that decides; other rows say nothing about it."""
    counting = next((one.counting for one in base.measures if one.name == decides), np.ones(len(base.rows), dtype=bool))
    if clusters is None:
        return said_of_few(int(counting.sum()), "row")
    return said_of_few(len(np.unique(clusters[counting])), "cluster")
