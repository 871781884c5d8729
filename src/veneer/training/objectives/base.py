"""The loss: named terms, each a sum over a micro-batch that is divided by its weight in the whole step.

    loss of a step = Σ over terms of (Σ over micro-batches of the term's sum) / (the term's weight in the step)

The weights are known before the first backward pass, so that the cut of a step into micro-batches cannot change its
loss (contract 3 in docs/design.md). An objective gets hidden states and never the model, so that several adapters can
share a pass (`veneer.training.joint`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import add
from typing import Protocol

import torch
from torch import Tensor, nn

from veneer.data.micro_batches.batches import MicroBatch
from veneer.products import Scores


@dataclass(frozen=True, slots=True)
class Sums:
    """The sums of an objective over one micro-batch."""

    terms: Mapping[str, Tensor]
    """The sums that are minimised, by name: scalars with a gradient."""
    metrics: Mapping[str, float | Tensor] = field(default_factory=dict)
    """The sums that are only reported, by name: numbers, or scalars that have not been read yet. They have weights
    too."""

    @property
    def total(self) -> Tensor:
        """The sum of the terms without weights, for a backward pass whose gradients are not used."""
        return reduce(add, self.terms.values())

    def loss(self, weights: Mapping[str, float]) -> Tensor:
        """The micro-batch's share of the step's loss, a scalar with a gradient."""
        return reduce(add, (term / weights[name] for name, term in self.terms.items()))


@dataclass(slots=True)
class Means:
    """The loss and the metrics of a step, accumulated over its micro-batches.

    The terms of a micro-batch are tensors on its device, and are read only when a number is needed. Reading one earlier
    would wait for the backward pass of each micro-batch, and the device would get no new work meanwhile.
    """

    weights: Mapping[str, float]
    """The weight of each term and metric in the whole step."""
    _loss: float = 0.0
    _named: dict[str, float] = field(default_factory=dict)
    _unread: list[tuple[dict[str, Tensor], Mapping[str, float | Tensor]]] = field(default_factory=list)
    """The terms and metrics of micro-batches that have not been read."""

    def add(self, sums: Sums) -> None:
        """Add one micro-batch."""
        self._unread.append(({name: term.detach() for name, term in sums.terms.items()}, sums.metrics))

    def read(self, beside: Tensor | None = None) -> float:
        """Read everything that was added, with one wait for the device.

        Args:
            beside: another number on the device, which is read in the same wait.

        Returns:
            That number; 0 if there is none.
        """
        tensors = [x for both in self._unread for part in both for x in part.values() if isinstance(x, Tensor)]
        tensors += [] if beside is None else [beside]
        numbers = torch.stack([tensor.double() for tensor in tensors]).tolist() if tensors else []
        values = iter(numbers)
        for terms, metrics in self._unread:
            read = {name: next(values) for name in terms}
            self._count(read, {n: next(values) if isinstance(x, Tensor) else x for n, x in metrics.items()})
        self._unread.clear()
        return 0.0 if beside is None else float(numbers[-1])

    def _count(self, terms: Mapping[str, float], metrics: Mapping[str, float]) -> None:
        terms, metrics = ({n: value / self.weights[n] for n, value in part.items()} for part in (terms, metrics))
        self._loss += sum(terms.values())
        for name, mean in (*(terms.items() if len(terms) > 1 else ()), *metrics.items()):
            self._named[name] = self._named.get(name, 0.0) + mean

    @property
    def loss(self) -> float:
        """The loss of the micro-batches that were added."""
        self.read()
        return self._loss

    def joined(self, others: Means) -> Means:
        """The means of these micro-batches and those that follow them."""
        named = self.metrics
        for name, mean in others.metrics.items():
            named[name] = named.get(name, 0.0) + mean
        return Means(self.weights, self.loss + others.loss, named)

    def with_metrics(self, more: Mapping[str, float]) -> Means:
        """These means with additional metrics."""
        return Means(self.weights, self.loss, {**self._named, **more})

    def numbers(self) -> Tensor:
        """The loss, and for each weight, sorted by name, whether it has a mean to report, and the mean: float64 `[1 + 2
        · weights]`. Processes exchange this tensor. Each process may hold the weights in another order."""
        numbers, named = [self.loss], self.metrics
        for name in sorted(self.weights):
            numbers += [float(name in named), named.get(name, 0.0)]
        return torch.tensor(numbers, dtype=torch.float64)

    @classmethod
    def of_numbers(cls, weights: Mapping[str, float], numbers: Tensor) -> Means:
        """The means that another process sent as `numbers`, with the weights that all processes know."""
        loss, *rest = numbers.tolist()
        told = {name: rest[2 * at + 1] for at, name in enumerate(sorted(weights)) if rest[2 * at]}
        return cls(weights, loss, {name: told[name] for name in weights if name in told})

    @property
    def metrics(self) -> dict[str, float]:
        """The mean of each metric, and of each term if there are several."""
        self.read()
        return dict(self._named)


class Objective(Protocol):
    """What a run minimises, independent of how the hidden states are computed."""

    def weights(self, batches: Sequence[MicroBatch]) -> Mapping[str, float]:
        """The divisors of the sums of each term and metric, above 0, over all micro-batches of a step."""
        ...

    def sums(self, hidden: Tensor, head: nn.Module, shaping: Scores, batch: MicroBatch) -> Sums:
        """The sums over one micro-batch.

        Args:
            hidden: hidden states of the micro-batch's tokens, `[tokens, dim]`.
            head: maps hidden states `[rows, dim]` to scores `[rows, vocab_size]`.
            shaping: the scale and soft cap of the head's scores.
        """
        ...


class StepObjective(Protocol):
    """An objective together with the computation of hidden states, which is all that the engine needs."""

    def prepared(self, batches: Sequence[MicroBatch]) -> Sequence[MicroBatch]:
        """The micro-batches of a step, each with the values that depend on all of them, before the first backward
        pass."""
        ...

    def weights(self, batches: Sequence[MicroBatch]) -> Mapping[str, float]:
        """See `Objective.weights`."""
        ...

    def sums(self, batch: MicroBatch) -> Sums:
        """The sums over one micro-batch."""
        ...
