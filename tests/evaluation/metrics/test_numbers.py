from __future__ import annotations

from decimal import Decimal

import pytest

from veneer.evaluation.metrics.base import AnsweredRow
from veneer.evaluation.metrics.numbers import marked_number, number, numbers


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


@pytest.mark.parametrize(
    "text",
    [
        r"so \boxed{\frac{1}{2}}", r"\boxed{x+1}", r"\boxed{3\sqrt{2}}", r"\boxed{(1,2)}", r"\boxed{2^{10}}",
        "#### 1/2", "#### 3:30", r"\boxed{3xy}", r"\boxed{3\pi}", r"\boxed{5!}", r"\boxed{1, 2}", r"\boxed{}",
        r"\boxed{3 \text{ and } 5}", r"12 and \boxed{\text{none}}", "#### 2 hours 30 minutes", r"#### 3\sqrt{2}",
        r"\boxed{5} or \boxed{5_8}",
    ],
)  # fmt: skip
def test_a_mark_that_holds_more_than_one_number_is_no_number(text: str) -> None:
    assert number(text) is None
    assert marked_number(text) is None
    found = numbers([AnsweredRow("f:1", "", "#### 5", text), AnsweredRow("f:2", "", text, "5")])
    assert [one.total for one in found.measures] == [0.0]


@pytest.mark.parametrize(
    "text",
    [
        "####\n72", "#### $72.00", "#### 72 apples", "#### 72 clips in April and May.", "#### 72km", "#### 72 km/h",
        "#### **72**", "#### $72$", r"#### \(72\)", r"#### $\boxed{72}$", r"\boxed{72\text{ cm}^2}",
        r"\boxed{72^\circ}", r"\boxed{72\%}", r"\boxed{\text{72}}", r"\boxed{72 \text{ square feet}}",
        r"\boxed{72~\mathrm{m}}", r"\boxed{72", "#### 72元", r"\boxed{72} #### Notes: 3",
    ],
)  # fmt: skip
def test_a_marked_number_may_have_a_unit(text: str) -> None:
    assert (number(text), marked_number(text)) == (Decimal(72), Decimal(72))


@pytest.mark.parametrize("text", ["#### Step 3: add\nso it is 72", "#### 3. Add\n72", "**#### Answer: 72", "it is 72"])
def test_a_heading_is_no_mark(text: str) -> None:
    assert (number(text), marked_number(text)) == (Decimal(72), None)


def test_a_sign_in_a_box_may_stand_apart() -> None:
    assert number("\\boxed{- 5}") == Decimal(-5)


def test_answers_count_by_value_and_references_without_a_number_not_at_all() -> None:
    pairs = [("work\n#### 72", "It is 72.00"), ("#### 5", "five"), ("no number", "3"), ("#### 10", "10 or 11")]
    found = numbers([AnsweredRow("f:1", "", reference, answer) for reference, answer in pairs])
    assert found.measures[0].total == pytest.approx(1 / 3)
    assert numbers([AnsweredRow("f:1", "", "x", "y")]).measures == []
