"""Sums, differences and products of whole numbers."""

from __future__ import annotations

import random
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from veneer.evaluation.metrics.numbers import number
from veneer.evaluation.suites.base import Item, Suite

_ASK = ("What is {}? Answer with the number alone.", "Compute {}. Give only the result.", "{} = ? Only the number.")


def _make(source: random.Random) -> Item:
    sign = source.choice("+-×")
    limit = 20 if sign == "×" else source.choice((50, 200, 1000))
    left, right = source.randint(2, limit), source.randint(2, limit)
    value = {"+": left + right, "-": left - right, "×": left * right}[sign]
    return Item(source.choice(_ASK).format(f"{left} {sign} {right}"), str(value), {"value": value})


def _right(answer: str, check: Mapping[str, Any]) -> bool:
    return number(answer) == Decimal(check["value"])


ARITHMETIC = Suite("arithmetic", "sums, differences and products of whole numbers", _make, _right)
