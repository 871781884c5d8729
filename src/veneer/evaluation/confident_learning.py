"""Confident learning: which labels are likely to be wrong, by a classifier of the features of their rows.

A linear classifier predicts the probabilities of labels for rows that it was not fitted on (k folds). The candidates
for a row are the labels whose probability reaches their own mean over the rows that have them. A label is likely to be
wrong if the likeliest candidate is another label and likelier than the row's own (Northcutt, Jiang and Chuang 2021,
https://arxiv.org/abs/1911.00068, section 3).
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from veneer.data.micro_batches.orders import order
from veneer.events import Stage

FOLDS = 5
_PENALTY = 1e-2
_STREAM = 2**31 + 7

Numbers = NDArray[np.float64]


def folded_probabilities(features: Tensor, labels: NDArray[np.int64], kinds: int, stage: Stage) -> Numbers:
    """Probabilities of each label for each row, [rows, kinds], from classifiers that have not seen the row.

    Args:
        features: the features of the rows, float32 [rows, dim].
        labels: the index of each row's label.
        kinds: the number of labels.
        stage: receives the progress, fold by fold.
    """
    found = np.zeros((len(labels), kinds))
    # Sorted by label first, so that every fold has its share of each.
    mixed = order(len(labels), seed=0, epoch=_STREAM)
    dealt = mixed[np.argsort(labels[mixed], kind="stable")]
    fold_of = np.empty(len(labels), dtype=np.int64)
    fold_of[dealt] = np.arange(len(labels)) % FOLDS
    for fold in range(FOLDS):
        seen, held = np.flatnonzero(fold_of != fold), np.flatnonzero(fold_of == fold)
        if len(held):
            found[held] = _fold_probabilities(features, labels, seen, held, kinds)
        stage.advance()
    return found


def _fold_probabilities(
    features: Tensor, labels: NDArray[np.int64], seen: NDArray[np.int64], held: NDArray[np.int64], kinds: int
) -> Numbers:
    """Probabilities of each label for the rows `held`, from a classifier that is fitted on the rows `seen`."""
    own, other = features[torch.from_numpy(seen)], features[torch.from_numpy(held)]
    mean, spread = own.mean(dim=0), own.std(dim=0) + 1e-6
    # In place: the features may be most of what is in memory.
    weight = _fit(own.sub_(mean).div_(spread), torch.from_numpy(labels[seen]), kinds)
    probabilities: Numbers = torch.softmax(_scores(other.sub_(mean).div_(spread), weight), dim=1).double().numpy()
    return probabilities


def _scores(features: Tensor, weight: Tensor) -> Tensor:
    return features @ weight[:-1] + weight[-1]


def _fit(features: Tensor, labels: Tensor, kinds: int) -> Tensor:
    """Multinomial logistic regression with an L2 penalty, [dim + 1, kinds]; the last row is the bias."""
    weight = torch.zeros(features.shape[1] + 1, kinds, requires_grad=True)
    solver = torch.optim.LBFGS([weight], max_iter=100, history_size=10, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        solver.zero_grad()
        value = torch.nn.functional.cross_entropy(_scores(features, weight), labels)
        value = value + _PENALTY / 2 * (weight[:-1] ** 2).sum()
        value.backward()
        return value

    solver.step(loss)
    return weight.detach()


def likely_errors(probabilities: Numbers, labels: NDArray[np.int64]) -> tuple[list[int], list[int]]:
    """The rows whose label is likely to be wrong, and the label of each by confident learning.

    That label must also be likelier than the row's own: the threshold of a label that only one row has is near 0, so
    all rows reach it.

    Args:
        probabilities, labels: see `confident_labels`.
    """
    likelier, rows = confident_labels(probabilities, labels), np.arange(len(labels))
    places = np.flatnonzero(probabilities[rows, likelier] > probabilities[rows, labels])
    return places.tolist(), likelier[places].tolist()


def confident_labels(probabilities: Numbers, labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """The label of each row by confident learning, [rows]; its own if no label reaches its threshold.

    Args:
        probabilities: the predictions of a classifier that was not fitted on the row, [rows, kinds].
        labels: the index of each row's label.
    """
    kinds = probabilities.shape[1]
    thresholds = np.array([probabilities[labels == kind, kind].mean() if (labels == kind).any() else 1.0
                           for kind in range(kinds)])  # fmt: skip
    reached = np.where(probabilities >= thresholds, probabilities, -1.0)
    likeliest = reached.argmax(axis=1)
    return np.where(reached.max(axis=1) >= 0, likeliest, labels)
