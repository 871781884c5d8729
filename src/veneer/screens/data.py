"""What `veneer data` shows: progress bars while rows are checked, and each rule that rows break."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import click
from rich.console import Console
from rich.text import Text

from veneer.data.files.fix import Change, FixResult, fix
from veneer.data.lint.report import Found, LintReport
from veneer.data.lint.row import LintSetting, Row
from veneer.data.lint.rules import Severity
from veneer.data.lint.view import CONTINUED_TEXT, rows_again, spans_of, tokens_of
from veneer.data.page.write import write_page
from veneer.enums import RowKind
from veneer.errors import ConfigError
from veneer.evaluation.lint_request import LintRequest, run_lint
from veneer.events import Stage
from veneer.html.assemble import page_begins
from veneer.io.proofs import prove_own_file
from veneer.screens.console import console, output_console, say
from veneer.screens.events import EventScreen
from veneer.screens.figures import duration
from veneer.screens.json_output import while_read
from veneer.text.counting import count_of
from veneer.text.strict_json import to_text
from veneer.text.visible import visible

SHOWN = 3
"""The number of rows of a rule that are shown with their findings."""
_COLOURS = {Severity.ERROR: "red", Severity.WARNING: "yellow", Severity.INFO: "cyan"}


def lint_visibly(request: LintRequest, *, show: int = 0, html: Path | None = None, as_json: bool) -> LintReport:
    """Check a file under a progress bar, and print the findings unless the caller wants JSON.

    Args:
        request: the check.
        show: the number of rows to print as tokens.
        html: the path of the page to write.
        as_json: whether the caller prints the report itself, as JSON.

    Raises:
        ConfigError: rows are to be shown as tokens, or read by the model, but no model is named; or the model is to
            judge answers, but the rows are prompts.
        OutputError: the page cannot be written, or would replace a file that is not a page.
    """
    if show and request.model is None:
        raise ConfigError("--show prints rows as tokens, which need a model's tokenizer; name the model by --model")
    request.refuse_unreadable("--label-errors", "--model")
    if html is not None:
        prove_own_file(html, page_begins(), "a page of veneer")
    with EventScreen(console()) as screen:
        report = run_lint(request, screen)
        if html is not None:
            with Stage(screen, f"writing {html}"):
                write_page(html, report)
    if not as_json:
        output = output_console()
        for _, row in rows_again(report, range(show)):
            for one in (row, row.other if report.setting.rows is RowKind.PAIRS else None):
                if one is not None:
                    show_row(output, one, report.setting)
        show_report(output, report)
    return report


def fix_visibly(file: str, new: Path, *, as_json: bool) -> FixResult:
    """Write a mended copy of a file. Prints a line (of JSON, if the caller wants it) for every change, and a summary.
    The file is completed even if nobody reads these lines."""
    echo: Callable[[str], None] = while_read(click.echo)

    def tell(change: Change) -> None:
        echo(to_text(asdict(change), ensure_ascii=False) if as_json else visible(f"{change.where}: {change.text}"))

    done = fix(file, new, tell)
    if as_json:
        echo(to_text(asdict(done), ensure_ascii=False, default=str))
    text = (
        f"{done.output}: {count_of(done.rows, 'row')}, {done.left_out:,} left out; {count_of(done.changes, 'change')}"
    )
    say(console(), text)
    if done.unreadable:
        text = (
            f"warning: {count_of(done.unreadable, 'row')} of {file} cannot be read (`veneer data` shows the "
            "reasons). Such lines of JSON Lines are copied unchanged; such rows of other formats are left out"
        )
        say(console(), text, style="yellow")
    return done


def show_row(output: Console, row: Row, setting: LintSetting) -> None:
    """Print a row as tokens: trained tokens are green and between {+ and +}, and `|` separates two tokens."""
    tokens = tokens_of(row, setting)
    name = row.part if setting.rows is RowKind.PAIRS else row.label
    text = Text(f"{row.where}{', ' if name else ''}{name}: ", style="bold")
    if not tokens:
        text.append(f"{visible(str(row.problem))}\n", style="red")
        output.print(text, soft_wrap=True)
        return
    trained = sum(token.trained for token in tokens)
    what = "a prompt, to which answers are sampled" if row.asked is not None else f"{trained} of them trained"
    text.append(f"{count_of(len(tokens), 'token')}, {what}\n")
    for span in spans_of(tokens):
        pieces = [visible(token.text.replace("\n", "\\n")) or CONTINUED_TEXT for token in tokens[span.start : span.end]]
        style = "green" if span.trained else "not bold dim"
        text.append(
            "{+" if span.trained and (span.start == 0 or not tokens[span.start - 1].trained) else "", "bold green"
        )
        text.append("|".join(pieces), style=f"not bold {style}" if span.trained else style)
        last = span.end == len(tokens) or not tokens[span.end].trained
        text.append("+}" if span.trained and last else "" if last and span.end == len(tokens) else "|", "not bold dim")
    text.append("\n")
    for span in spans_of(tokens):
        mark = "trained  " if span.trained else "         "
        text.append(f"    {mark}{span.start:>5} to {span.end - 1:<5} {visible(span.field)}\n", style="not bold")
    output.print(text, soft_wrap=True)


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
    text.append(f" ({count_of(count, 'row')}): rows that {rule.summary}\n")
    causes = _by_detail(found)
    for detail, rows in list(causes.items())[:SHOWN]:
        text.append(visible(f"    {report.facts.where(rows[0])}: {detail}\n"))
        if len(rows) > 1:
            text.append(f"        … and {_listed(rows[1:], report)}\n", style="dim")
    shown = {row for rows in list(causes.values())[:SHOWN] for row in rows}
    if rest := [row for row in found.rows if row not in shown]:
        text.append(f"    … and {_listed(rest, report)}\n", style="dim")
    text.append(f"    remedy: {rule.remedy}\n")
    return text


def _by_detail(found: Found) -> dict[str, list[int]]:
    """The rows of each detail, in the order of their first rows; rows whose detail is not kept are left out."""
    causes: dict[str, list[int]] = {}
    for row in found.rows:
        if row in found.details:
            causes.setdefault(found.details[row], []).append(row)
    return causes


def _listed(rows: Sequence[int], report: LintReport) -> str:
    """The lines of further rows, as many as fit into a line. If there are several files, each is named where its lines
    begin."""
    file, *others = report.files
    known, places = "" if others else file, []
    for row in rows[:10]:
        name, _, line = report.facts.where(row).rpartition(":")
        places.append(line if name == known else f"{name}:{line}")
        known = name
    more = f" and {len(rows) - 10:,} more" if len(rows) > 10 else ""
    return visible(f"in line{'s'[: len(rows) - 1]} {', '.join(places)}{more}")


def summary(report: LintReport) -> list[str]:
    """The number of rows by severity, their lengths, and the checks that were not made."""
    counts = ", ".join(f"{severity.value}s in {report.rows_with(severity):,}" for severity in list(Severity)[:2])
    objective = "" if report.objective is None else f" as objective {report.objective.value} reads them,"
    lines = [f"{count_of(report.rows, 'row')} checked{objective} in {duration(report.seconds)}: {counts}"]
    lengths = report.statistics()["lengths"]
    if lengths is not None:
        what = "pair, both answers together" if report.setting.rows is RowKind.PAIRS else "row"
        targets = f", {lengths['targets']:,} of {lengths['total']:,} trained" if lengths["targets"] else ""
        lines.append(
            f"{lengths['unit']} a {what}: median {lengths['median']:,}, 99 % up to {lengths['p99']:,}, "
            f"longest {lengths['longest']:,}{targets}"
        )
    if report.skipped:
        lines.append(f"not checked, because no --model is given: {', '.join(report.skipped)}")
    lines += [f"not done: {text}" for text in report.undone]
    return lines
