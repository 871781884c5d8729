"""Write the page on a data file: its findings and rows."""

from __future__ import annotations

from pathlib import Path

from veneer.data.lint.report import LintReport
from veneer.data.page.content import content
from veneer.html.assemble import page
from veneer.io.files import write_text


def write_page(path: Path, report: LintReport) -> None:
    """Write a report as a page, atomically.

    Args:
        path: the HTML file.
        report: the report to show; its rows are encoded again.

    Raises:
        OutputError: the file cannot be written.
        DataError: a data file can no longer be read.
    """
    values = content(report)
    write_text(path, page("veneer.data.page", "veneer data", "page.html", "page.css", ["page.js"], values))
