"""Numbers by step are a dictionary's, whatever was told again."""

from __future__ import annotations

import random

import pytest

from veneer.step_values import StepValues


@pytest.mark.parametrize("seed", range(10))
def test_the_later_telling_counts(seed: int) -> None:
    source = random.Random(seed)
    told: list[tuple[int, float]] = []
    expected: dict[int, float] = {}
    step = 0
    for _ in range(60):
        # A run that is resumed goes on after an earlier step, and what it had told of later ones is void.
        step = source.randint(1, step) if step and source.random() < 0.1 else step + source.randint(1, 3)
        expected = {key: value for key, value in expected.items() if key < step} | {step: source.random()}
        told.append((step, expected[step]))
    found = StepValues(told)
    assert found == expected
    assert list(found) == sorted(expected)
    assert found.numbers.tolist() == list(expected.values())
    assert (0 in found, step in found) == (False, True)
