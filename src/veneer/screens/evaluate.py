"""What `veneer evaluate` shows: bars while rows are answered, and tables of scores and samples."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from veneer.evaluation.run import EvaluationRequest, Report, Sample, run_evaluation
from veneer.evaluation.statistics.compare import Comparison, Metric
from veneer.screens.console import new_table, show_table
from veneer.screens.figures import change, number
from veneer.screens.subscribers import subscribers_of

SAMPLES_SHOWN = 3
LOWER_IS_BETTER = ("loss", "perplexity")
EXCERPT = 240
"""Longest answer shown in a table of samples, in characters."""


def evaluate_visibly(request: EvaluationRequest, *, as_json: bool) -> Report:
    """Evaluate under bars, and print tables of scores and samples."""
    with subscribers_of(as_json=as_json) as subscribers:
        report = run_evaluation(request, subscribers=subscribers)
    if not as_json:
        output = Console()
        show_table(output, report_table(request.data, report))
        if report.samples:
            show_table(output, sample_table("Samples", report.samples[:SAMPLES_SHOWN]))
    return report


def report_table(title: str, report: Report) -> Table:
    """The table of an evaluation of one model or of two."""
    if report.comparison:
        return comparison_table(f"{title} ({report.rows} rows)", report.comparison)
    return metric_table(f"{title} ({report.rows} rows)", report.base)


def comparison_table(title: str, rows: list[Comparison], *, tuned: str = "adapter") -> Table:
    """Base against `tuned`, as it is called, with the interval of the paired difference."""
    table = new_table(title, "", "base", tuned, "difference", "95 % interval")
    for row in rows:
        better = (row.high < 0) if row.name in LOWER_IS_BETTER else (row.low > 0)
        worse = (row.low > 0) if row.name in LOWER_IS_BETTER else (row.high < 0)
        colour = "green" if better else "red" if worse else "yellow"
        table.add_row(
            row.name,
            number(row.name, row.base),
            number(row.name, row.adapter),
            Text(change(row.name, row.difference), style=colour),
            f"{change(row.name, row.low)} to {change(row.name, row.high)}",
        )
    return table


def metric_table(title: str, rows: list[Metric]) -> Table:
    """The measures of one model."""
    table = new_table(title, "", "value", "95 % interval")
    for row in rows:
        ends = [number(row.name, end) for end in (row.low, row.high)]
        table.add_row(row.name, number(row.name, row.value), " to ".join(ends))
    return table


def sample_table(title: str, samples: list[Sample], *, tuned: str = "adapter") -> Table:
    """Row by row: what was asked, what base and `tuned` say (or the only model there is), and what was expected."""
    table = new_table(title)
    table.show_header = False
    table.add_column("who", style="bold")
    # Folded, since an answer without spaces (JSON) would be cut at the column's edge.
    table.add_column("text", overflow="fold")
    for sample in samples:
        table.add_section()
        table.add_row("message", Text(sample.question))
        table.add_row("answer" if sample.adapter is None else "base", _excerpt(sample.base))
        if sample.adapter is not None:
            right = sample.adapter.strip() == sample.reference.strip()
            table.add_row(tuned, _excerpt(sample.adapter, style="green" if right else "yellow"))
        table.add_row("expected", Text(sample.reference))
    return table


def _excerpt(text: str, style: str = "") -> Text:
    """The start of an answer on one line: an untrained model may go on for long."""
    flat = " ".join(text.split())
    return Text(flat if len(flat) <= EXCERPT else flat[: EXCERPT - 1] + "…", style=style)
