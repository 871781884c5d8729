"""Write the page on an evaluation."""

from __future__ import annotations

from pathlib import Path

from veneer.evaluation.page.content import content
from veneer.evaluation.report import Report
from veneer.html_page.assemble import page
from veneer.io.files import write_text


def write_report(path: Path, report: Report, title: str) -> None:
    """Write a report as a page, atomically.

    Args:
        path: the file.
        report: what was found.
        title: says what was evaluated.

    Raises:
        OutputError: the file cannot be written.
    """
    values = content(report, title)
    parts = ("report.html", "report.css", "report.js")
    write_text(path, page("veneer.evaluation.page", "veneer evaluate", *parts, values))
