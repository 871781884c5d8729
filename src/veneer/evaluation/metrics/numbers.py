"""Numbers, as GSM8K asks for them: the last number of an answer, compared by value.

A number that is marked (`#### 72`, `\\boxed{72}`) goes before the last one. Thousands' commas, currency and percent
signs are passed over; 72 and 72.0 are equal.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal

from veneer.evaluation.metrics.base import AnsweredRow, TaskResult
from veneer.evaluation.statistics.measures import mean_of

_NUMBER = r"[-+−]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|[-+−]?\.\d+"
_MARKED = re.compile(rf"(?:####\s*|\\boxed\{{)\s*[$€£]?\s*({_NUMBER})")
_ANY = re.compile(rf"(?<![\w.])[$€£]?\s*({_NUMBER})")


def number(text: str) -> Decimal | None:
    """The number that a text ends in, or None where it has none."""
    found = _MARKED.findall(text) or _ANY.findall(text)
    return Decimal(found[-1].replace(",", "").replace("−", "-")) if found else None


def numbers(rows: Sequence[AnsweredRow]) -> TaskResult:
    """The share of answers whose number is the reference's; rows whose reference has none do not count."""
    values: list[float | None] = []
    for row in rows:
        expected = number(row.reference)
        values.append(None if expected is None else float(number(row.answer) == expected))
    found = mean_of("number", values)
    return TaskResult([] if found is None else [found])
