"""What `veneer compare` shows: a line for every run, and tables of quality and cost."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from veneer.comparison.order import BASE
from veneer.comparison.request import CompareRequest
from veneer.comparison.result import CompareResult
from veneer.comparison.run import compare_shared
from veneer.comparison.summary import Difference, Figure
from veneer.config import ComputeSection
from veneer.evaluation.statistics.measures import SHARES
from veneer.io.files import write_text
from veneer.processes.group_share import GroupShare, meeting
from veneer.processes.ranks import Ranks
from veneer.screens.console import console, new_table, output_console, say, show_table
from veneer.screens.figures import bare, change, p_value
from veneer.screens.subscribers import subscriber_of, told_by_rank_0
from veneer.text.counting import count_of
from veneer.training.parallel.start import with_own_device

ALWAYS = ("exact", "fields", "loss", "perplexity", "bits_per_byte")
"""Measures that every comparison has."""
TEXT_WIDTH = 140
"""The width of the tables that are written to files, in characters."""


def compare_visibly(
    request: CompareRequest, ranks: Ranks, *, as_json: bool, on: str | None = None
) -> CompareResult | None:
    """Compare methods with a line for every run, and print tables of quality and cost. With several processes, each
    makes a share of the runs, and rank 0 prints. On the cluster at the address `on`, each run is a task."""
    result = _on_cluster(on, request, as_json) if on else _here(request, ranks, as_json)
    if result is None:
        return None
    tables = [comparison_of_methods(result)]
    if any(set(one.metrics) - set(ALWAYS) for one in result.methods):
        tables.append(measures_table(result))
    if result.differences:
        tables.append(differences_table(result.differences))
    text = io.StringIO()
    for table in tables:
        show_table(Console(file=text, width=TEXT_WIDTH), table)
    write_text(Path(request.output) / "compare.txt", text.getvalue())
    for name, problem in result.problems.items():
        say(console(), f"{name}: not run: {problem}")
    if not as_json:
        shown = output_console()
        for table in tables:
            show_table(shown, table)
        say(shown, f"everything, with plots: {request.output}")
    return result


def _on_cluster(on: str, request: CompareRequest, as_json: bool) -> CompareResult:
    from veneer.ray.runs import compare_on

    with subscriber_of(as_json=as_json) as emit:
        return compare_on(on, request, emit)


def _here(request: CompareRequest, ranks: Ranks, as_json: bool) -> CompareResult | None:
    device = with_own_device(ComputeSection(), ranks).device
    with meeting(ranks) as group, told_by_rank_0(ranks, as_json=as_json) as emit:
        return compare_shared(request, GroupShare(group), device, emit)


def comparison_of_methods(result: CompareResult) -> Table:
    """A row for the base and for each method: its cost and its quality."""
    names = [name for name in ("loss", "exact", "fields") if any(name in one.metrics for one in result.methods)]
    rows = result.config.data or "several sources"
    title = f"{rows}: {count_of(result.training_rows, 'row')} trained, {result.evaluation_rows:,} others scored"
    measures = [f"{name}\n%" if name in SHARES else name for name in names]
    # The units are in the headings, so that the table fits into 80 columns.
    headings = ("", "trained\nmillions", "disk\nMB", "memory\nMB", "time\ns", *measures)
    table = new_table(title, *headings, no_wrap=True)
    for one in result.methods:
        fewer = one.method != BASE and len(one.seeds) < result.config.seeds
        costs = [f"{one.trainable / 1e6:,.2f}", f"{one.bytes_on_disk / 1e6:,.1f}"]
        costs += [f"{one.peak_memory_mb.mean:,.0f}", f"{one.seconds.mean:,.0f}"]
        shown = [_figure(name, one.metrics[name]) if name in one.metrics else "" for name in names]
        name = f"{one.method} ({len(one.seeds)})" if fewer else one.method
        table.add_row(name, *(costs if one.method != BASE else [""] * 4), *shown)
    seeds = result.config.seeds
    interval = "; ± half of their 95 % interval (Student's t)" if seeds > 1 else ""
    table.caption = f"peak memory, time of the training steps; means over {count_of(seeds, 'seed')}{interval}"
    return table


def measures_table(result: CompareResult) -> Table:
    """Every measure of the task: means over seeds by method."""
    table = new_table("measures of the task", "", *(one.method for one in result.methods))
    names = dict.fromkeys(name for one in result.methods for name in one.metrics if name not in ALWAYS)
    for name in names:
        figures = [_figure(name, one.metrics[name]) if name in one.metrics else "" for one in result.methods]
        table.add_row(f"{name}, %" if name in SHARES else name, *figures)
    table.caption = f"primary measure: {result.primary}" if result.primary else None
    return table


def differences_table(found: Sequence[Difference]) -> Table:
    """Each method against its reference on the same rows."""
    references = list(dict.fromkeys(one.reference for one in found))
    title = f"against {references[0]}" if len(references) == 1 else "differences"
    table = new_table(title, "", "", "difference", "95 % interval", "p")
    for one in found:
        row = one.values
        ends = f"{change(row.name, row.low)} to {change(row.name, row.high)}"
        p = row.holm if row.holm is not None else row.p
        name = one.method if len(references) == 1 else f"{one.method} against {one.reference}"
        table.add_row(name, row.name, change(row.name, row.difference), ends, "" if p is None else p_value(p))
    intervals = ", ".join(dict.fromkeys(one.values.interval for one in found))
    table.caption = f"rows paired, seed by seed; intervals: {intervals}; p by Holm, except for the primary measure"
    return table


def _figure(name: str, value: Figure) -> str:
    """A mean with half of its interval. The interval of a share may be cut off at 0 or 1: the longer half counts."""
    if value.low is None or value.high is None:
        return bare(name, value.mean)
    return f"{bare(name, value.mean)}±{bare(name, max(value.mean - value.low, value.high - value.mean))}"
