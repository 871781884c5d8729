"""What `veneer evaluate` shows: progress bars while rows are answered, and tables of scores and samples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from rich.table import Table
from rich.text import Text

from veneer.errors import listing
from veneer.evaluation.forgetting import SuiteResult
from veneer.evaluation.gate import GateResult, Verdict
from veneer.evaluation.judge.verdicts import JudgedShare, JudgeResult
from veneer.evaluation.metrics.json_fields import KINDS
from veneer.evaluation.report import Report, Sample
from veneer.evaluation.request import EvaluationRequest
from veneer.evaluation.run import contribute, run_evaluation
from veneer.evaluation.statistics.compare import Comparison, Metric
from veneer.processes.group_share import GroupShare, meeting
from veneer.processes.ranks import Ranks
from veneer.screens.console import new_table, output_console, show_table
from veneer.screens.figures import change, number, p_value
from veneer.screens.subscribers import subscriber_of
from veneer.text.counting import count_of
from veneer.training.parallel.start import with_own_device

SAMPLES_SHOWN = 3
MOST_LABELS = 12
"""The number of labels of the largest confusion matrix that a terminal shows."""
EXCERPT = 240
"""The longest answer in a table of samples, in characters."""


def evaluate_visibly(
    request: EvaluationRequest, ranks: Ranks, *, as_json: bool, on: str | None = None
) -> Report | None:
    """Evaluate under progress bars, and print tables of scores and samples. Of several processes each computes a share
    of the rows, and rank 0 prints. On the cluster at the address `on`, tasks compute the rows."""
    report = _on_cluster(on, request, as_json) if on else _here(request, ranks, as_json)
    if report is not None:
        _show(request, report, as_json=as_json)
    return report


def _on_cluster(on: str, request: EvaluationRequest, as_json: bool) -> Report:
    from veneer.ray.shards import evaluate_on

    with subscriber_of(as_json=as_json) as emit:
        return evaluate_on(on, request, emit)


def _here(request: EvaluationRequest, ranks: Ranks, as_json: bool) -> Report | None:
    compute = with_own_device(request.assistant.compute, ranks)
    request = replace(request, assistant=replace(request.assistant, compute=compute))
    with meeting(ranks) as group:
        share = GroupShare(group)
        if not share.first:
            contribute(request, share)
            return None
        with subscriber_of(as_json=as_json) as emit:
            return run_evaluation(request, emit, share=share)


def _show(request: EvaluationRequest, report: Report, *, as_json: bool) -> None:
    if not as_json:
        output = output_console()
        show_table(output, report_table(request.data, report))
        for table in detail_tables(report):
            show_table(output, table)
        if report.suites:
            show_table(output, suite_table(report.suites))
        if report.judge is not None:
            show_table(output, judge_table(report.judge))
        if report.gate is not None:
            show_table(output, gate_table(report.gate))
        if report.samples:
            show_table(output, sample_table("Samples", report.samples[:SAMPLES_SHOWN]))


def report_table(title: str, report: Report) -> Table:
    """The table of an evaluation of one or two models, with the names of its intervals below."""
    rows: Sequence[Comparison | Metric] = report.comparison or report.base
    if report.comparison:
        table = comparison_table(f"{title} ({count_of(report.rows, 'row')})", report.comparison)
    else:
        table = metric_table(f"{title} ({count_of(report.rows, 'row')})", report.base)
    lines = [f"primary measure: {report.primary}"] if report.primary else []
    for name in dict.fromkeys(row.interval for row in rows):
        lines.append(f"{name}: {', '.join(row.name for row in rows if row.interval == name)}")
    p_values = [_p_value(row) for row in report.comparison if row.p is not None]
    if p_values:
        lines.append(f"p of no difference (by Holm, except for the primary measure): {', '.join(p_values)}")
    table.caption = "\n".join(lines)
    return table


def _p_value(row: Comparison) -> str:
    value = row.holm if row.holm is not None else row.p or 0.0
    return f"{row.name} {p_value(value)}"


def detail_tables(report: Report) -> list[Table]:
    """Tables of the metrics' other results for each model: confusion matrix, JSON fields, calibration, signatures."""
    return [table for who, details in report.details.items() for table in _details(who, details)]


def _details(who: str, details: dict[str, Any]) -> Iterator[Table]:
    if "confusion" in details and len(details["confusion"]["labels"]) <= MOST_LABELS:
        labels = details["confusion"]["labels"]
        table = new_table(f"{who}: expected (lines) and given (columns)", "", *labels, "unparsable")
        for label, counts in zip(labels, details["confusion"]["counts"], strict=True):
            table.add_row(label, *map(str, counts))
        yield table
    if "fields" in details:
        table = new_table(f"{who}: fields of the JSON answers", "", *KINDS)
        for name, counts in details["fields"].items():
            table.add_row(name, *(str(counts[kind]) for kind in KINDS))
        yield table
    if "calibration" in details:
        found = details["calibration"]
        title = f"{who}: calibration error {found['ece']:.3f} ({found['low']:.3f} to {found['high']:.3f})"
        table = new_table(title, "", "confidence", "right", "rows")
        for number_, one in enumerate(found["bins"], start=1):
            table.add_row(str(number_), f"{one['confidence']:.3f}", f"{one['right']:.3f}", str(one["rows"]))
        yield table
    for name in ("bleu", "chrf"):
        if name in details:
            table = new_table(f"{who}: {name} by sacreBLEU", "", "score")
            table.add_row(details[name]["signature"], f"{details[name]['score']:.2f}")
            yield table


def comparison_table(title: str, rows: list[Comparison], *, tuned: str = "adapter") -> Table:
    """Base against the model named `tuned`, with the interval of the paired difference."""
    table = new_table(title, "", "base", tuned, "difference", "95 % interval")
    for row in rows:
        table.add_row(row.name, *_compared(row, unsure="yellow"))
    return table


def _compared(row: Comparison, unsure: str) -> tuple[str, str, Text, str]:
    """Base, tuned, difference and its interval; `unsure` is the colour if the interval contains 0."""
    _, low, high = row.gain
    colour = "green" if low > 0 else "red" if high < 0 else unsure
    return (
        number(row.name, row.base),
        number(row.name, row.adapter),
        Text(change(row.name, row.difference), style=colour),
        f"{change(row.name, row.low)} to {change(row.name, row.high)}",
    )


def metric_table(title: str, rows: list[Metric]) -> Table:
    """The measures of one model."""
    table = new_table(title, "", "value", "95 % interval")
    for row in rows:
        ends = [number(row.name, end) for end in (row.low, row.high)]
        table.add_row(row.name, number(row.name, row.value), " to ".join(ends))
    return table


def suite_table(suites: Sequence[SuiteResult]) -> Table:
    """Base and adapter on each suite, which show what was forgotten."""
    table = new_table("What was forgotten", "", "rows", "base", "adapter", "difference", "95 % interval")
    for suite in suites:
        table.add_row(suite.name, f"{suite.rows:,}", *_compared(suite.comparison, unsure=""))
    return table


def gate_table(result: GateResult) -> Table:
    """The conditions of a gate and its answer. Gains are in the measure's own unit: 0.02 of a share is two points."""
    table = new_table(f"Gate: {result.verdict}", "", "gain", "95 % interval", "answer")
    table.add_column("must be")
    colours = {Verdict.HELD: "green", Verdict.REGRESSED: "red", Verdict.UNDECIDED: "yellow"}
    for one in result.conditions:
        ends = f"{one.low:+.4f} to {one.high:+.4f}"
        answer = Text(one.verdict.value, style=colours[one.verdict])
        table.add_row(one.name, f"{one.gain:+.4f}", ends, answer, one.rule)
    return table


def judge_table(result: JudgeResult) -> Table:
    """The judge's verdicts on the answers, and how far the judge can be trusted."""
    table = new_table(f"The judge {result.judge}", "", "share", "95 % interval", "of")
    shares: list[tuple[str, JudgedShare | None]] = [
        ("the adapter's answer is preferred", result.win_rate),
        ("both orders say the same", result.consistent),
        ("the first answer is chosen", result.first_chosen),
        ("the longer answer is chosen", result.longer_chosen),
        ("agrees with people", result.agreement),
    ]
    for name, share in shares:
        if share is not None:
            ends = f"{100 * share.low:.1f} to {100 * share.high:.1f}"
            table.add_row(name, f"{100 * share.value:.1f} %", ends, f"{share.count:,}")
    lines = [f"rows: {result.wins} won in both orders, {result.ties} ties, {result.losses} lost"]
    if result.kappa is not None:
        lines.append(f"Cohen's kappa of the agreement with people: {result.kappa:.2f}")
    if result.unclear:
        lines.append(f"without a verdict, and not counted: {listing(result.unclear, limit=5)}")
    table.caption = "\n".join(lines)
    return table


def sample_table(title: str, samples: list[Sample], *, tuned: str = "adapter") -> Table:
    """Row by row: the question, the answers of base and `tuned` (or of the only model), and the expected answer."""
    table = new_table(title)
    table.show_header = False
    table.add_column("who", style="bold")
    # Folded, because an answer without spaces (JSON) would be cut at the column's edge.
    table.add_column("text", overflow="fold")
    for sample in samples:
        table.add_section()
        table.add_row("message", Text(sample.question))
        table.add_row("answer" if sample.adapter is None else "base", _excerpt(sample.base))
        if sample.adapter is not None:
            style = "green" if sample.adapter_exact == 1 else "yellow"
            table.add_row(tuned, _excerpt(sample.adapter, style=style))
        table.add_row("expected", Text(sample.reference))
    return table


def _excerpt(text: str, style: str = "") -> Text:
    """The start of an answer on one line: an untrained model may write very long ones."""
    flat = " ".join(text.split())
    return Text(flat if len(flat) <= EXCERPT else flat[: EXCERPT - 1] + "…", style=style)
