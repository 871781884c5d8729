from __future__ import annotations

import pytest

from veneer.evaluation.statistics.measures import SHARES
from veneer.evaluation.suites.registry import SUITES
from veneer.screens.figures import change, duration, number, p_value


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0.0 s"), (9.94, "9.9 s"), (9.96, "10 s"), (10, "10 s"), (59.4, "59 s"), (59.9, "1 min 00 s"),
     (60, "1 min 00 s"), (61.4, "1 min 01 s"), (3599.6, "1 h 00 min"), (3600, "1 h 00 min"), (7260, "2 h 01 min")],
)  # fmt: skip
def test_durations_are_rounded_before_their_unit_is_chosen(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_numbers_have_the_unit_of_their_measure() -> None:
    assert [number("exact", 0.5), number("fields", 1.0), number("loss", 1.23456)] == ["50.0 %", "100.0 %", "1.235"]


def test_changes_have_a_sign_and_the_unit_of_their_measure() -> None:
    assert [change("exact", 0.25), change("fields", -1.0), change("loss", 0.25)] == ["+25.0", "-100.0", "+0.250"]


def test_the_share_of_a_suite_is_shown_in_percent() -> None:
    assert set(SUITES) <= set(SHARES)


def test_no_p_is_shown_as_0() -> None:
    assert [p_value(p) for p in (0.0, 1e-300, 9.9e-13)] == ["< 1e-12"] * 3
    assert [p_value(p) for p in (1e-12, 0.00123, 0.5, 1.0)] == ["1e-12", "0.0012", "0.5", "1"]
