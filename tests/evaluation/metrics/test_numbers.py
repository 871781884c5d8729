from __future__ import annotations

from decimal import Decimal

import pytest

from veneer.evaluation.metrics.base import AnsweredRow
from veneer.evaluation.metrics.numbers import number, numbers


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3 + 4 = 7\n#### 7", "7"), ("so it is $1,234.50.", "1234.5"), ("#### -12\nand 99", "-12"), ("none", None),
        ("\\boxed{42} of 50", "42"), ("72.0", "72"), ("−5 degrees", "-5"), ("It takes 3 days.", "3"), ("50%", "50"),
        ("1,2 and 3", "3"), ("x2y", None), (".5", "0.5"), ("#### 1,000,000", "1000000"), ("between 2-3", "3"),
        ("", None), ("#### -$5", "-5"), ("a loss of −€1,200.", "-1200"), ("$-5", "-5"), ("from $5 - $10", "10"),
        ("5-$10", "10"), ("\\boxed{\\$72} in 3 days", "72"), ("\\boxed{72,\\!000}", "72000"),
        ("\\boxed{72{,}000}", "72000"), ("5 - 3", "3"), ("#### - 5", "5"), ("-5 - -3", "-3"),
        ("\\boxed{-7\\,200}", "-7200"), ("1e3", "1000"), ("1.5E-2", "0.015"), ("#### 2e5", "200000"), ("5e", "5"),
        ("8em", "8"),
    ],
)  # fmt: skip
def test_the_number_that_a_text_ends_in(text: str, value: str | None) -> None:
    assert number(text) == (None if value is None else Decimal(value))


def test_answers_count_by_value_and_references_without_a_number_not_at_all() -> None:
    pairs = [("work\n#### 72", "It is 72.00"), ("#### 5", "five"), ("no number", "3"), ("#### 10", "10 or 11")]
    found = numbers([AnsweredRow("f:1", "", reference, answer) for reference, answer in pairs])
    assert found.measures[0].total == pytest.approx(1 / 3)
    assert numbers([AnsweredRow("f:1", "", "x", "y")]).measures == []
