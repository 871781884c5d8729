"""The text of a plan."""

from __future__ import annotations

import pytest

from veneer.planning.plan import spoken


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0123, "0.012 s"), (61.0, "61 s"), (100.0, "1.7 min"), (7300.0, "2 h"), (3e5, "3.5 days")]
)
def test_durations_have_two_digits(seconds: float, text: str) -> None:
    assert spoken(seconds) == text
