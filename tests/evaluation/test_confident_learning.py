"""Labels that are likely to be wrong are told from probabilities as the paper has it, and by no row's own label."""

from __future__ import annotations

import gc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from veneer.evaluation import confident_learning
from veneer.evaluation.confident_learning import confident_labels, folded_probabilities, likely_errors
from veneer.events import Stage, ignore


def test_a_fold_holds_one_copy_of_its_features(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, width = 200, 77
    held: list[int] = []

    def fitted(features: torch.Tensor, labels: torch.Tensor, kinds: int) -> torch.Tensor:
        tensors = [one for one in gc.get_objects() if type(one) is torch.Tensor and one.shape[1:] == (width,)]
        held.append(sum({one.data_ptr(): one.shape[0] for one in tensors}.values()))
        assert torch.allclose(features.mean(dim=0), torch.zeros(width), atol=1e-5)
        return torch.zeros(width + 1, kinds)

    monkeypatch.setattr(confident_learning, "_fit", fitted)
    features = torch.randn(rows, width, generator=torch.Generator().manual_seed(0))
    before = features.clone()
    folded_probabilities(features, np.arange(rows) % 2, 2, Stage(ignore, "x"))
    assert held == [3 * rows] * 5, "all rows, the copy of this test, and the two sides of the fold"
    assert torch.equal(features, before)


@settings(max_examples=100, deadline=None)
@given(st.integers(2, 30), st.integers(2, 5), st.integers(0, 1000))
def test_confident_labels_are_those_of_the_paper(rows: int, kinds: int, seed: int) -> None:
    source = np.random.default_rng(seed)
    probabilities = source.dirichlet(np.ones(kinds), size=rows)
    labels = source.integers(0, kinds, rows)
    found = confident_labels(probabilities, labels)
    for row in range(rows):
        reached = {}
        for kind in range(kinds):
            own = [probabilities[other, kind] for other in range(rows) if labels[other] == kind]
            if own and probabilities[row, kind] >= sum(own) / len(own) - 1e-15:
                reached[kind] = probabilities[row, kind]
        expected = max(reached, key=lambda kind: reached[kind]) if reached else labels[row]
        assert found[row] == expected


def test_a_label_of_one_row_makes_no_other_row_wrong() -> None:
    own = np.linspace(0.8, 0.98, 20)
    probabilities = np.stack([own, 1 - own - 1e-4, np.full(20, 1e-4)], axis=1)
    probabilities = np.concatenate([probabilities, probabilities[:, [1, 0, 2]], [[0.99, 0.0099, 1e-4]]])
    labels = np.array([0] * 20 + [1] * 20 + [2])
    assert (confident_labels(probabilities, labels) == 2).sum() > 10, "the threshold of the label is what others reach"
    assert likely_errors(probabilities, labels) == ([40], [0])


def test_no_row_is_judged_by_a_classifier_that_has_seen_it() -> None:
    """Random features: whoever has seen a row's label knows it by heart, and whoever has not guesses."""
    source = torch.Generator().manual_seed(0)
    features = torch.randn(100, 300, generator=source)
    labels = (torch.rand(100, generator=source) < 0.5).long().numpy()
    probabilities = folded_probabilities(features, labels, 2, Stage(ignore, "x"))
    assert np.allclose(probabilities.sum(axis=1), 1.0)
    assert 0.3 < (probabilities.argmax(axis=1) == labels).mean() < 0.7
