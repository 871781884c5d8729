from __future__ import annotations

import numpy as np

from veneer.evaluation.statistics.significance import holm


def test_an_example_of_three() -> None:
    assert np.allclose(holm([0.01, 0.04, 0.03]), [0.03, 0.06, 0.06])
    assert holm([]) == []
    assert holm([0.7, 0.9]) == [1.0, 1.0]


def step_down(values: list[float], level: float) -> set[int]:
    """Holm's procedure as he states it: the smallest p against level/m, the next against level/(m − 1), …"""
    refused: set[int] = set()
    for place, index in enumerate(sorted(range(len(values)), key=values.__getitem__)):
        if values[index] > level / (len(values) - place):
            break
        refused.add(index)
    return refused


def test_adjusted_values_decide_as_the_procedure_does() -> None:
    source = np.random.default_rng(0)
    for _ in range(200):
        values = (source.random(int(source.integers(1, 9))) ** 3).tolist()
        adjusted = holm(values)
        for level in (0.01, 0.05, 0.2):
            assert {i for i, p in enumerate(adjusted) if p <= level} == step_down(values, level)


def test_one_error_or_more_comes_in_a_twentieth_of_cases_at_most() -> None:
    source = np.random.default_rng(1)
    wrong = np.mean([min(holm(source.random(6).tolist())) <= 0.05 for _ in range(4_000)])
    assert 0.03 <= wrong <= 0.06
