"""What is minimised: named terms, each a sum over a micro-batch that is divided by its weight in the whole step.

    loss of a step = Σ over terms of (Σ over micro-batches of the term's sum) / (the term's weight in the step)

The weights are known before the first backward, so that how a step is cut into micro-batches cannot change its loss
(contract 3 in docs/design.md). An objective sees hidden states and never the model, so that several adapters can share
a pass (`veneer.training.joint`).
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
    """What an objective makes of one micro-batch."""

    terms: Mapping[str, Tensor]
    """Sums that are minimised, by name: scalars with a gradient."""
    metrics: Mapping[str, float | Tensor] = field(default_factory=dict)
    """Sums that are only reported, by name: numbers, or scalars that are not read yet. They have weights too."""

    @property
    def total(self) -> Tensor:
        """The terms added up as they are, for a backward whose gradients nobody uses."""
        return reduce(add, self.terms.values())

    def loss(self, weights: Mapping[str, float]) -> Tensor:
        """The micro-batch's share of the step's loss, a scalar with a gradient."""
        return reduce(add, (term / weights[name] for name, term in self.terms.items()))


@dataclass(slots=True)
class Means:
    """The loss and the metrics of a step, as its micro-batches add up to them.

    The terms of a micro-batch are tensors of its device, and are read when a number is asked for: reading one earlier
    would wait for the backward pass of each micro-batch, in which the device is given nothing new.
    """

    weights: Mapping[str, float]
    """The weight of each term and metric in the whole step."""
    _loss: float = 0.0
    _named: dict[str, float] = field(default_factory=dict)
    _unread: list[tuple[dict[str, Tensor], Mapping[str, float | Tensor]]] = field(default_factory=list)
    """The terms and metrics of micro-batches that have not been read."""

    def add(self, sums: Sums) -> None:
        """Count one micro-batch."""
        self._unread.append(({name: term.detach() for name, term in sums.terms.items()}, sums.metrics))

    def read(self, beside: Tensor | None = None) -> float:
        """Read what was added, with one wait for the device.

        Args:
            beside: another number of that device, which is read in the same wait.

        Returns:
            That number; 0 where there is none.
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
        """The loss of the micro-batches that were counted."""
        self.read()
        return self._loss

    def joined(self, others: Means) -> Means:
        """These micro-batches and those that follow them, as one."""
        named = self.metrics
        for name, mean in others.metrics.items():
            named[name] = named.get(name, 0.0) + mean
        return Means(self.weights, self.loss + others.loss, named)

    def with_metrics(self, more: Mapping[str, float]) -> Means:
        """These means with metrics that were measured otherwise."""
        return Means(self.weights, self.loss, {**self._named, **more})

    def numbers(self) -> Tensor:
        """The loss, and for each weight, in the order of their names, whether it has a mean that is reported, and the
        mean: float64 `[1 + 2 · weights]`, in which processes tell each other. Each may have the weights in an order of
        its own."""
        numbers, named = [self.loss], self.metrics
        for name in sorted(self.weights):
            numbers += [float(name in named), named.get(name, 0.0)]
        return torch.tensor(numbers, dtype=torch.float64)

    @classmethod
    def of_numbers(cls, weights: Mapping[str, float], numbers: Tensor) -> Means:
        """What another process told by `numbers`, under the weights that all of them know."""
        loss, *rest = numbers.tolist()
        told = {name: rest[2 * at + 1] for at, name in enumerate(sorted(weights)) if rest[2 * at]}
        return cls(weights, loss, {name: told[name] for name in weights if name in told})

    @property
    def metrics(self) -> dict[str, float]:
        """The mean of each metric, and of each term where there are several."""
        self.read()
        return dict(self._named)


class Objective(Protocol):
    """What is minimised, whoever computes the hidden states."""

    def weights(self, batches: Sequence[MicroBatch]) -> Mapping[str, float]:
        """What the sums of each term and metric are divided by, above 0, for all micro-batches of a step."""
        ...

    def sums(self, hidden: Tensor, head: nn.Module, shaping: Scores, batch: MicroBatch) -> Sums:
        """The sums over one micro-batch.

        Args:
            hidden: hidden states of its tokens, `[tokens, dim]`.
            head: scores hidden states, `[rows, dim]` to `[rows, vocab_size]`.
            shaping: what becomes of the head's products.
            batch: the micro-batch.
        """
        ...


class StepObjective(Protocol):
    """An objective together with what computes the hidden states: all that the engine needs."""

    def prepared(self, batches: Sequence[MicroBatch]) -> Sequence[MicroBatch]:
        """The micro-batches of a step with what depends on all of them put into each, before the first backward."""
        ...

    def weights(self, batches: Sequence[MicroBatch]) -> Mapping[str, float]:
        """See `Objective.weights`."""
        ...

    def sums(self, batch: MicroBatch) -> Sums:
        """The sums over one micro-batch."""
        ...
