"""Put a page together: a body, a style, a script, and values as JSON, in one file.

The page loads nothing: its Content-Security-Policy allows its own script and style, by their hashes, and nothing else.
Rows are text of strangers; they reach the page as JSON in which `<` is escaped, and the script writes them as text
only.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from veneer.text.strict_json import to_text


def page(package: str, title: str, body: str, style: str, scripts: Sequence[str], values: dict[str, Any]) -> str:
    """The page that shows `values`.

    Args:
        package: the package that holds the files.
        title: the title of the page.
        body: the file of the elements that the page shows.
        style: the file of the style, which follows the common one.
        scripts: the files of the script, in order, which follow the common one; they find the values as `data`.
        values: what is shown; no NaN and no infinity.
    """
    text = _read(__package__, "base.html")
    styles = _read(__package__, "base.css") + _read(package, style)
    script = _read(__package__, "base.js") + "".join(_read(package, name) for name in scripts)
    embedded = to_text(values, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    for mark, part in (
        ("@TITLE@", title),
        ("@BODY@", _read(package, body)),
        ("@STYLE_HASH@", _hash(styles)),
        ("@SCRIPT_HASH@", _hash(script)),
        ("@STYLE@", styles),
        ("@SCRIPT@", script),
    ):
        text = text.replace(mark, part)
    before, after = text.split("@DATA@")
    return f"{before}{embedded}{after}"


def page_begins() -> str:
    """What every page begins with, up to where pages differ."""
    return _read(__package__, "base.html").partition("@")[0]


def _read(package: str, name: str) -> str:
    return files(package).joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
