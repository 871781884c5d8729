"""The content of the page on an evaluation, as plain values: the report, its worst and best rows, and histograms."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain, islice
from typing import Any

from veneer.evaluation.page.differences import Marked, marked
from veneer.evaluation.report import Report, Sample
from veneer.evaluation.statistics.compare import Comparison
from veneer.evaluation.statistics.measures import SHARES
from veneer.events import Stage, Subscriber, counted
from veneer.html.histograms import histograms
from veneer.text.strict_json import with_reasons

ROWS_SHOWN = 30
"""The number of rows that are shown of each list: the worst, the best and those that stayed the same."""
LONGEST = 6_000
"""The longest text of a row that is shown, in characters."""
BINS = 30
UNCHANGED = (0.0, 0.0)
"""The gain of a row that became neither better nor worse."""


def content(report: Report, title: str, emit: Subscriber) -> dict[str, Any]:
    """The whole content of the page; `title` says what was evaluated, and `emit` receives the progress."""
    lists = _lists(report.samples)
    with Stage(emit, "marking differences", total=sum(map(len, lists.values())), unit="rows") as stage:
        done = counted(chain.from_iterable(lists.values()), stage)
        rows = {name: [_row(sample) for sample in islice(done, len(chosen))] for name, chosen in lists.items()}
    values = replace(report, samples=[]).to_json()
    shown = {
        "title": title,
        "report": values,
        "shares": list(SHARES),
        "lower": sorted({one.name for one in _comparisons(report) if one.lower_is_better}),
        **rows,
        "answered": len(report.samples),
        "histograms": _lengths(report.samples),
    }
    return with_reasons(shown)


def _comparisons(report: Report) -> Iterator[Comparison]:
    yield from report.comparison
    for suite in report.suites:
        yield from (suite.comparison, *suite.others)


def _lists(samples: Sequence[Sample]) -> dict[str, list[Sample]]:
    """The rows that became worse (the worst first), those that became better (the best first), and those that did
    neither. Without an adapter, the worse half and the better half of the rows."""
    ranked = sorted(samples, key=_gain)
    if all(sample.adapter is None for sample in ranked):
        half = (len(ranked) + 1) // 2
        lists = {"worst": ranked[:half], "best": ranked[half:][::-1], "same": []}
    else:
        gains = [_gain(sample) for sample in ranked]
        worse, better = sum(gain < UNCHANGED for gain in gains), sum(gain > UNCHANGED for gain in gains)
        end = len(ranked) - better
        lists = {"worst": ranked[:worse], "best": ranked[end:][::-1], "same": ranked[worse:end]}
    return {name: rows[:ROWS_SHOWN] for name, rows in lists.items()}


def _gain(sample: Sample) -> tuple[float, float]:
    """How much better the adapter's answer is than the base's (without an adapter: how good the answer is): first
    whether it is right, and then by the loss of the reference."""
    if sample.adapter is None:
        return sample.base_exact or 0.0, -(sample.base_loss or 0.0)
    exact = (sample.adapter_exact or 0.0) - (sample.base_exact or 0.0)
    return exact, (sample.base_loss or 0.0) - (sample.adapter_loss or 0.0)


def _row(sample: Sample) -> dict[str, Any]:
    reference = sample.reference[:LONGEST]
    base, missing = marked(sample.base[:LONGEST], reference)
    adapter: Marked | None = None
    if sample.adapter is not None:
        adapter, missing = marked(sample.adapter[:LONGEST], reference)
    return {
        "where": sample.where,
        "question": sample.question[:LONGEST],
        "reference": missing,
        "base": base,
        "adapter": adapter,
        "losses": [sample.base_loss, sample.adapter_loss],
        "exact": [sample.base_exact, sample.adapter_exact],
    }


def _lengths(samples: Sequence[Sample]) -> list[dict[str, Any]]:
    """The lengths of references and answers in characters, over common bins."""
    columns = {
        "reference": [len(one.reference) for one in samples],
        "base's answer": [len(one.base) for one in samples],
        "adapter's answer": [len(one.adapter) for one in samples if one.adapter is not None],
    }
    return histograms({f"characters of the {name}": lengths for name, lengths in columns.items()}, BINS)
