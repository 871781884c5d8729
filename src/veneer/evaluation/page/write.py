"""Write the page on an evaluation."""

from __future__ import annotations

from pathlib import Path

from veneer.evaluation.page.content import content
from veneer.evaluation.report import Report
from veneer.events import Subscriber
from veneer.html.assemble import page
from veneer.io.files import write_text

SCRIPTS = (
    "figures.js", "tables.js", "measures.js", "plots.js", "details.js", "training.js", "rows.js", "report.js"
)  # fmt: skip
"""The files of the page's script; the last one shows the sections."""


def write_report(path: Path, report: Report, title: str, emit: Subscriber) -> None:
    """Write a report as a page, atomically.

    Args:
        path: the HTML file.
        report: the result to show.
        title: what was evaluated, in words.
        emit: receives the progress.

    Raises:
        OutputError: the file cannot be written.
    """
    values = content(report, title, emit)
    write_text(path, page("veneer.evaluation.page", "veneer evaluate", "report.html", "report.css", SCRIPTS, values))
