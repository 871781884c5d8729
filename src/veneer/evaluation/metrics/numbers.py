"""Numbers, as GSM8K asks for them: the last number of an answer, compared by value.

A number that is marked (`#### 72`, `\\boxed{72}`) goes before the last one. Thousands' commas, also as LaTeX writes
them, currency and percent signs are passed over; 72 and 72.0 are equal, as are 1e3 and 1,000.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal

from veneer.evaluation.metrics.base import AnsweredRow, TaskResult
from veneer.evaluation.statistics.measures import mean_of

_DIGITS = r"(?:(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d{1,3}(?!\w))?"
_NUMBER = rf"(?:([-+−]?)[$€£¥₹]\s*)?([-+−]?{_DIGITS})"
"""A sign may stand before the currency or behind it."""
_MARKED = re.compile(rf"(?:####\s*|\\boxed\{{\s*){_NUMBER}")
_ANY = re.compile(rf"(?<![\w.]){_NUMBER}")
_LATEX = {"\\$": "$", "{,}": ",", "\\!": "", "\\,": ""}
"""What LaTeX writes around digits, and what stands for it: `\\$72{,}000`, `72,\\!000`, `72\\,000`."""


def number(text: str) -> Decimal | None:
    """The number that a text ends in, or None where it has none."""
    for written, plain in _LATEX.items():
        text = text.replace(written, plain)
    found = _MARKED.findall(text) or _ANY.findall(text)
    if not found:
        return None
    before, digits = found[-1]
    sign = before if digits[0] not in "-+−" else ""
    return Decimal(f"{sign}{digits}".replace(",", "").replace("−", "-"))


def numbers(rows: Sequence[AnsweredRow]) -> TaskResult:
    """The share of answers whose number is the reference's; rows whose reference has none do not count."""
    values: list[float | None] = []
    for row in rows:
        expected = number(row.reference)
        values.append(None if expected is None else float(number(row.answer) == expected))
    found = mean_of("number", values)
    return TaskResult([] if found is None else [found])
