"""What is minimised: named terms, each a sum over a micro-batch that is divided by its weight in the whole step.

    loss of a step = Σ over terms of (Σ over micro-batches of the term's sum) / (the term's weight in the step)

The weights are known before the first backward, so that how a step is cut into micro-batches cannot change its loss
(contract 3 in docs/design.md). An objective sees hidden states and never the model, so that several adapters can share
a pass (`veneer.training.joint`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import add
from typing import Protocol

import torch
from torch import Tensor, nn

from veneer.data.batches import MicroBatch
from veneer.losses import linear_cross_entropy, scored_cross_entropy
from veneer.model.decoder import plain_weight
from veneer.model.language import LanguageModel
from veneer.model.mode import evaluation_mode
from veneer.products import Scores

CROSS_ENTROPY = "cross_entropy"
"""The only term of supervised fine-tuning."""


@dataclass(frozen=True, slots=True)
class Sums:
    """What an objective makes of one micro-batch."""

    terms: Mapping[str, Tensor]
    """Sums that are minimised, by name: scalars with a gradient."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Sums that are only reported, by name. They have weights too."""

    @property
    def total(self) -> Tensor:
        """The terms added up as they are, for a backward whose gradients nobody uses."""
        return reduce(add, self.terms.values())

    def loss(self, weights: Mapping[str, float]) -> Tensor:
        """The micro-batch's share of the step's loss, a scalar with a gradient."""
        return reduce(add, (term / weights[name] for name, term in self.terms.items()))


@dataclass(slots=True)
class Means:
    """The loss and the metrics of a step, as its micro-batches add up to them."""

    weights: Mapping[str, float]
    """The weight of each term and metric in the whole step."""
    loss: float = 0.0
    _named: dict[str, float] = field(default_factory=dict)

    def add(self, sums: Sums) -> None:
        """Count one micro-batch."""
        terms = {name: float(term.detach()) / self.weights[name] for name, term in sums.terms.items()}
        self.loss += sum(terms.values())
        reported = terms if len(terms) > 1 else {}
        for name, mean in (*reported.items(), *((n, value / self.weights[n]) for n, value in sums.metrics.items())):
            self._named[name] = self._named.get(name, 0.0) + mean

    @property
    def metrics(self) -> dict[str, float]:
        """The mean of each metric, and of each term where there are several."""
        return dict(self._named)


class Objective(Protocol):
    """What is minimised, whoever computes the hidden states."""

    def weights(self, batches: Sequence[MicroBatch]) -> Mapping[str, float]:
        """What the sums of each term and metric are divided by, above 0, for all micro-batches of a step."""
        ...

    def sums(self, hidden: Tensor, head: nn.Module, scores: Scores, batch: MicroBatch) -> Sums:
        """The sums over one micro-batch.

        Args:
            hidden: hidden states of its tokens, `[tokens, dim]`.
            head: scores hidden states, `[rows, dim]` to `[rows, vocab_size]`.
            scores: what becomes of the head's products.
            batch: the micro-batch.
        """
        ...


class StepObjective(Protocol):
    """An objective together with what computes the hidden states: all that the engine needs."""

    def weights(self, batches: Sequence[MicroBatch]) -> Mapping[str, float]:
        """See `Objective.weights`."""
        ...

    def sums(self, batch: MicroBatch) -> Sums:
        """The sums over one micro-batch."""
        ...


@dataclass(frozen=True, slots=True)
class SupervisedCrossEntropy:
    """Cross-entropy of the supervised tokens, in nats (`Objective`)."""

    def weights(self, batches: Sequence[MicroBatch]) -> Mapping[str, float]:
        """The number of supervised tokens."""
        return {CROSS_ENTROPY: sum(batch.supervised for batch in batches)}

    def sums(self, hidden: Tensor, head: nn.Module, scores: Scores, batch: MicroBatch) -> Sums:
        """See `Objective.sums`."""
        rows = hidden.index_select(0, batch.rows.to(hidden.device))
        targets = batch.targets.to(hidden.device)
        weight = plain_weight(head)
        if weight is not None:
            return Sums({CROSS_ENTROPY: linear_cross_entropy(rows, weight, targets, shaping=scores)})
        return Sums({CROSS_ENTROPY: scored_cross_entropy(rows, head, targets, shaping=scores)})


@dataclass(frozen=True, slots=True)
class OverModel:
    """An objective over one model (`StepObjective`)."""

    model: LanguageModel
    objective: Objective = field(default_factory=SupervisedCrossEntropy)

    def weights(self, batches: Sequence[MicroBatch]) -> Mapping[str, float]:
        """See `Objective.weights`."""
        return self.objective.weights(batches)

    def sums(self, batch: MicroBatch) -> Sums:
        """The sums over one micro-batch, whose documents the model computes."""
        model, device = self.model, self.model.device
        hidden = model.documents(batch.tokens.to(device), batch.positions.to(device), batch.segments, batch.shared)
        return self.objective.sums(hidden, model.lm_head, model.spec.scores, batch)


@torch.no_grad()
def mean_loss(
    model: LanguageModel,
    batches: Sequence[MicroBatch],
    objective: StepObjective | None = None,
    on_done: Callable[[], None] = lambda: None,
) -> float:
    """The loss over all micro-batches taken as one step, without gradients; 0 where there are none.

    Args:
        model: computes in evaluation mode meanwhile.
        batches: the micro-batches.
        objective: over this model; by default the cross-entropy of supervised tokens.
        on_done: called after every micro-batch.
    """
    if not batches:
        return 0.0
    objective = objective or OverModel(model)
    with evaluation_mode(model):
        sums = []
        for batch in batches:
            sums.append(objective.sums(batch))
            on_done()
    weights = objective.weights(batches)
    return sum(sum(float(one.terms[name]) for one in sums) / weights[name] for name in sums[0].terms)
