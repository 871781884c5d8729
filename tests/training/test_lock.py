"""`run.lock` says what the bytes of a run follow from."""

from __future__ import annotations

import pytest

from veneer.training.lock import schedules_of


@pytest.mark.parametrize(
    ("starts", "parts"),
    [
        ([], []),
        ([(0, 6)], [(0, 6)]),
        ([(0, 6), (2, 6), (4, 6)], [(0, 6)]),  # resumed
        ([(0, 6), (6, 12)], [(0, 6), (6, 12)]),  # made longer at its end
        ([(0, 6), (3, 12), (8, 12)], [(0, 6), (3, 12)]),  # in the middle, and resumed
        ([(0, 6), (3, 9), (9, 12)], [(0, 6), (3, 9), (9, 12)]),  # twice
        ([(0, 6), (4, 12), (4, 6)], [(0, 6)]),  # nothing of the longer schedule was kept
        ([(0, 6), (0, 9)], [(0, 9)]),  # started again
    ],
)
def test_the_schedules_that_left_a_trace(starts: list[tuple[int, int]], parts: list[tuple[int, int]]) -> None:
    assert [(part.from_step, part.steps) for part in schedules_of(starts)] == parts
