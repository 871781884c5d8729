"""Which script a text is written in: Latin, Cyrillic, Han, …, by its letters."""

from __future__ import annotations

import re

SCRIPTS = ("none", "Latin", "Greek", "Cyrillic", "Hebrew", "Arabic", "Indic", "Thai", "Japanese", "Korean", "Han")
_RANGES = (
    "A-Za-z\u00c0-\u024f\u1e00-\u1eff",
    "\u0370-\u03ff\u1f00-\u1fff",
    "\u0400-\u052f",
    "\u0590-\u05ff",
    "\u0600-\u06ff\u0750-\u077f",
    "\u0900-\u0dff",
    "\u0e00-\u0e7f",
    "\u3040-\u30ff",
    "\u1100-\u11ff\uac00-\ud7af",
    "\u3400-\u4dbf\u4e00-\u9fff",
)
_LETTERS = tuple(re.compile(f"[{ranges}]") for ranges in _RANGES)
_SAMPLE = 400
"""Characters of a text that are looked at."""


def script_of(text: str) -> int:
    """The number in SCRIPTS of the script that most letters of a text's start are of; 0 where it has none."""
    start = text[:_SAMPLE]
    if start.isascii():
        return 1 if any(map(str.isalpha, start)) else 0
    counts = [len(letters.findall(start)) for letters in _LETTERS]
    most = max(counts)
    # Japanese is written with Han characters between its own.
    if counts[7] and most == counts[9]:
        return 8
    return counts.index(most) + 1 if most else 0
