"""Write the page: a frame, a style, a script, and the findings and rows as JSON, in one file.

The page loads nothing: its Content-Security-Policy allows its own script and style, by their hashes, and nothing else.
Rows are text of strangers; they reach the page as JSON in which `<` is escaped, and the script writes them as
text only.
"""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files
from pathlib import Path
from typing import Any

from veneer.data.lint.report import LintReport
from veneer.data.lint.row import LintSetting
from veneer.data.page.content import content
from veneer.io.files import write_text
from veneer.strict_json import to_text


def write_page(path: Path, report: LintReport, setting: LintSetting) -> None:
    """Write a report as a page, atomically.

    Args:
        path: the file.
        report: what was found.
        setting: of the checks; it encodes the rows again.

    Raises:
        OutputError: the file cannot be written.
        DataError: a data file can no longer be read.
    """
    write_text(path, page(content(report, setting)))


def page(values: dict[str, Any]) -> str:
    """The page that shows `values`."""
    frame, style, script = (files(__package__).joinpath(name).read_text(encoding="utf-8") for name in _PARTS)
    embedded = to_text(values, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    for mark, text in (
        ("@STYLE_HASH@", _hash(style)),
        ("@SCRIPT_HASH@", _hash(script)),
        ("@STYLE@", style),
        ("@SCRIPT@", script),
    ):
        frame = frame.replace(mark, text)
    before, after = frame.split("@DATA@")
    return f"{before}{embedded}{after}"


_PARTS = ("page.html", "page.css", "page.js")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
