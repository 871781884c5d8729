"""What `veneer data` shows: bars while rows are checked, and each rule that rows break."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.text import Text

from veneer.data.lint.report import Found, LintReport
from veneer.data.lint.rules import Severity
from veneer.data.lint.run import LintOptions, lint
from veneer.io.checkpoint import open_checkpoint
from veneer.io.tokenizer import Tokenizer
from veneer.screens.console import console
from veneer.screens.events import EventScreen
from veneer.screens.figures import duration

SHOWN = 3
"""Rows of a rule that are shown with what was found in them."""
_COLOURS = {Severity.ERROR: "red", Severity.WARNING: "yellow", Severity.INFO: "cyan"}


@dataclass(frozen=True, slots=True)
class DataRequest:
    """What `veneer data` is asked for."""

    file: str
    model: str | None
    eval_file: str | None
    max_length: int
    group: str | None
    ignore: frozenset[str]
    processes: int | None
    """Processes that check rows; None takes one for each core."""


def lint_visibly(request: DataRequest, *, as_json: bool) -> LintReport:
    """Check a file under a progress bar; prints what was found unless the caller wants JSON."""
    tokenizer: Tokenizer | None = None if request.model is None else open_checkpoint(request.model).tokenizer()
    with EventScreen(console()) as screen:
        report = lint(
            request.file,
            tokenizer=tokenizer,
            eval_file=request.eval_file,
            max_length=request.max_length,
            options=LintOptions(
                ignore=request.ignore,
                group=request.group,
                processes=request.processes or len(os.sched_getaffinity(0)),
            ),
            subscribers=[screen],
        )
    if not as_json:
        show_report(Console(), report)
    return report


def show_report(output: Console, report: LintReport) -> None:
    """Print each rule that rows break with its first rows, and a summary."""
    for found in report.found:
        output.print(_finding(found, report), soft_wrap=True)
    for line in summary(report):
        output.print(Text(line), soft_wrap=True)


def _finding(found: Found, report: LintReport) -> Text:
    rule = found.rule
    text = Text()
    text.append(f"{rule.severity.value} ", style=f"bold {_COLOURS[rule.severity]}")
    text.append(rule.name, style="bold")
    count = len(found.rows)
    text.append(f" ({count:,} row{'s'[: count - 1]}): rows that {rule.summary}\n")
    for row in found.rows[:SHOWN]:
        text.append(f"    {report.facts.where(row)}: {found.details.get(row, '')}\n")
    if count > SHOWN:
        text.append(f"    … and {_listed(found.rows[SHOWN:], report)}\n", style="dim")
    text.append(f"    remedy: {rule.remedy}\n")
    return text


def _listed(rows: Sequence[int], report: LintReport) -> str:
    """The lines of further rows, as many as fit into a line."""
    lines = [str(report.facts.lines[row]) for row in rows[:10]]
    more = f" and {len(rows) - 10:,} more" if len(rows) > 10 else ""
    return f"in line{'s'[: len(rows) - 1]} {', '.join(lines)}{more}"


def summary(report: LintReport) -> list[str]:
    """How many rows of which severity, how long they are, and what was not checked."""
    counts = ", ".join(f"{severity.value}s in {report.rows_with(severity):,}" for severity in list(Severity)[:2])
    lines = [f"{report.rows:,} rows checked in {duration(report.seconds)}: {counts}"]
    lengths = report.statistics()["lengths"]
    if lengths is not None:
        targets = f", {lengths['targets']:,} of {lengths['total']:,} trained" if lengths["targets"] else ""
        lines.append(
            f"{lengths['unit']} a row: median {lengths['median']:,}, 99 % up to {lengths['p99']:,}, "
            f"longest {lengths['longest']:,}{targets}"
        )
    if report.skipped:
        lines.append(f"not checked, since no --model is named: {', '.join(report.skipped)}")
    return lines
