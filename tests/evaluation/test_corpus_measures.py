"""Measures of whole corpora are those that the harness computes, from sums over rows."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from veneer.evaluation.corpus_measures import CORPUS, f1_of, matthews_of

WORDS = ("the", "parcel", "crate", "is", "late", "blue")


def texts(source: random.Random, count: int) -> list[list[str]]:
    def words() -> str:
        return " ".join(source.choices(WORDS, k=source.randint(4, 9)))

    return [[words(), words()] for _ in range(count)]


@pytest.mark.parametrize("name", ["bleu", "chrf"])
def test_translations_are_scored_as_by_the_harness(name: str) -> None:
    metrics = pytest.importorskip("lm_eval.api.metrics", reason="lm-eval is not installed")
    for seed in range(4):
        items = texts(random.Random(seed), 12)
        measure = CORPUS[name](items)
        assert measure is not None
        assert measure.total == pytest.approx(getattr(metrics, name)(items), rel=1e-9)
        part = measure.counts[:5].sum(0)
        assert float(measure.value(part)) == pytest.approx(getattr(metrics, name)(items[:5]), rel=1e-9)
    assert CORPUS[name]([[["one", "another"], "one"]]) is None


def plain_f1(pairs: list[tuple[int, int]]) -> float:
    both = sum(right == given == 1 for right, given in pairs)
    wrong = sum(right != given for right, given in pairs)
    return 2 * both / (2 * both + wrong) if both or wrong else 0.0


def plain_correlation(pairs: list[tuple[int, int]]) -> float:
    right, given = np.array(pairs, dtype=float).T
    return float(np.corrcoef(right, given)[0, 1]) if right.std() and given.std() else 0.0


@pytest.mark.parametrize(
    ("name", "plain"), [("f1_score", plain_f1), ("matthews_corrcoef", plain_correlation)], ids=["f1", "matthews"]
)
def test_two_classes_are_scored_from_the_counts_of_their_four_cases(name: str, plain: Any) -> None:
    source = random.Random(7)
    for _ in range(60):
        pairs = [(source.randint(0, 1), source.randint(0, 1)) for _ in range(source.randint(1, 12))]
        measure = CORPUS[name](pairs)
        assert measure is not None
        assert measure.total == pytest.approx(plain(pairs), abs=1e-12)
    assert CORPUS[name]([(0, 2)]) is None
    assert CORPUS[name]([0.5]) is None


def test_many_resamples_are_scored_at_once() -> None:
    sums = np.array([[5.0, 1, 2, 8], [3, 0, 0, 0], [0, 0, 4, 4]])
    for value in (f1_of, matthews_of):
        assert value(sums).tolist() == [float(value(one)) for one in sums]
