"""docs/reliability.md lists every scenario, and every scenario has a test."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
PAGE = TESTS.parent / "docs" / "reliability.md"
SCENARIOS = set(range(1, 35))


def test_every_scenario_has_a_test_and_a_line_in_the_documentation() -> None:
    marked = {
        int(number)
        for file in TESTS.rglob("test_*.py")
        for number in re.findall(r"^@pytest\.mark\.scenario\(number=(\d+)\)", file.read_text(encoding="utf-8"), re.M)
    }
    listed = [int(number) for number in re.findall(r"^\| (\d+) \|", PAGE.read_text(encoding="utf-8"), re.M)]
    assert marked == SCENARIOS
    assert listed[: len(SCENARIOS)] == sorted(SCENARIOS)
