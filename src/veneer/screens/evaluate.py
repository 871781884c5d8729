"""What `veneer evaluate` shows: bars while rows are answered, and tables of scores and samples."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from veneer.assistant import Assistant
from veneer.data.records import read_records
from veneer.evaluation.run import EvaluationRequest, Report, RowSet, Sample, evaluate_rows, prepare
from veneer.evaluation.statistics import Comparison, Metric
from veneer.screens.console import console
from veneer.screens.figures import PERCENT, number
from veneer.screens.loading import open_visibly
from veneer.screens.progress import counting

SAMPLES_SHOWN = 3
LOWER_IS_BETTER = ("loss", "perplexity")
EXCERPT = 240
"""Longest answer shown in a table of samples, in characters."""


def evaluate_visibly(request: EvaluationRequest, *, as_json: bool) -> Report:
    """Evaluate with progress bars; prints tables unless the caller wants JSON."""
    records = read_records(request.data)[: request.limit]
    screen = console()
    assistant = open_visibly(request.assistant, screen=screen)
    report = score_visibly(assistant, prepare(assistant, records, max_new_tokens=request.max_new_tokens), screen)
    if not as_json:
        output = Console()
        output.print(report_table(request.data, report))
        if report.samples:
            output.print(sample_table("Samples", report.samples[:SAMPLES_SHOWN]))
    return report


def score_visibly(assistant: Assistant, rows: RowSet, screen: Console, what: str = "") -> Report:
    """Score base and adapter, each under a bar."""
    models = 1 if assistant.adapter is None else 2
    answered = sum(question is not None for question in rows.questions)
    with counting(screen, f"evaluating{what}", models * answered) as done:
        return evaluate_rows(assistant, rows, on_done=lambda who, count: done(count))


def report_table(title: str, report: Report) -> Table:
    """The table of an evaluation of one model or of two."""
    if report.comparison:
        return comparison_table(f"{title} ({report.rows} rows)", report.comparison)
    return metric_table(f"{title} ({report.rows} rows)", report.base)


def comparison_table(title: str, rows: list[Comparison], *, tuned: str = "adapter") -> Table:
    """Base against `tuned`, as it is called, with the interval of the paired difference."""
    table = Table(title=Text(title), title_justify="left", title_style="bold")
    for heading in ("", "base", tuned, "difference", "95 % interval"):
        table.add_column(heading, justify="left" if not heading else "right")
    for row in rows:
        unit = 100.0 if row.name in PERCENT else 1.0
        digits = 1 if row.name in PERCENT else 3
        better = (row.high < 0) if row.name in LOWER_IS_BETTER else (row.low > 0)
        worse = (row.low > 0) if row.name in LOWER_IS_BETTER else (row.high < 0)
        colour = "green" if better else "red" if worse else "yellow"
        table.add_row(
            row.name,
            number(row.name, row.base),
            number(row.name, row.adapter),
            Text(f"{unit * row.difference:+.{digits}f}", style=colour),
            f"{unit * row.low:+.{digits}f} to {unit * row.high:+.{digits}f}",
        )
    return table


def metric_table(title: str, rows: list[Metric]) -> Table:
    """The measures of one model."""
    table = Table(title=Text(title), title_justify="left", title_style="bold")
    for heading in ("", "value", "95 % interval"):
        table.add_column(heading, justify="left" if not heading else "right")
    for row in rows:
        ends = [number(row.name, end) for end in (row.low, row.high)]
        table.add_row(row.name, number(row.name, row.value), " to ".join(ends))
    return table


def sample_table(title: str, samples: list[Sample], *, tuned: str = "adapter") -> Table:
    """Row by row: what was asked, what base and `tuned` say (or the only model there is), and what was expected."""
    table = Table(title=Text(title), title_justify="left", title_style="bold", show_header=False)
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
