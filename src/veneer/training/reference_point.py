"""KTO's reference point: the mean log-ratio of a step's answers to other prompts, before the step's first backward.

The policy's log-probabilities of these answers are a forward pass of the step itself. The reference's follow from the
rows of every step, which the seed gives, so that they are computed before the first step with the other ones
(`veneer.training.reference`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from veneer.data.batches import MicroBatch, pack
from veneer.gpu.transfer import sent
from veneer.model.language import LanguageModel
from veneer.model.mode import evaluation_mode
from veneer.training.objective import OverModel, hidden_states
from veneer.training.objectives.base import Sums
from veneer.training.objectives.documents import log_probabilities
from veneer.training.objectives.kto import Partners

Partner = tuple[int, int]
"""The places of a row and of the row whose answer stands behind its prompt."""


@dataclass(frozen=True, slots=True)
class WithReferencePoint:
    """An objective whose losses are relative to the step's reference point (`StepObjective`)."""

    over: OverModel
    partners: Partners
    reference: Mapping[Partner, float]
    """The reference's log-probabilities of partners' answers."""
    prompts: bool = False
    """Whether answers behind one prompt share it."""

    def prepared(self, batches: Sequence[MicroBatch]) -> Sequence[MicroBatch]:
        """The micro-batches with the reference point of all of them."""
        pairs = self.partners.of([number for batch in batches for number in batch.numbers])
        most = max((len(batch.tokens) for batch in batches), default=1)
        found = list(partner_log_probabilities(self.over.model, self.partners, pairs, most, self.prompts))
        point = self._point(pairs, found) if found else 0.0
        return [replace(batch, baseline=point) for batch in batches]

    def _point(self, pairs: Sequence[Partner], found: Sequence[tuple[list[Partner], Tensor]]) -> float | Tensor:
        """The mean gain of the partners' answers, at least 0. On a GPU it stays there, unread, so that nothing waits
        for the pass that it comes from."""
        laid = [pair for some, _ in found for pair in some]
        policy = torch.cat([values for _, values in found])
        reference = torch.tensor([self.reference[pair] for pair in laid], dtype=torch.float64)
        gains: Tensor = policy - sent(reference, policy.device)
        if gains.device.type != "cpu":
            point: Tensor = gains.mean().clamp_min(0.0)
            return point
        # In the order of the partners, which does not depend on how they are packed.
        by_pair = dict(zip(laid, gains.tolist(), strict=True))
        return max(0.0, float(sum(by_pair[pair] for pair in pairs)) / len(pairs))

    def weights(self, batches: Sequence[MicroBatch]) -> Mapping[str, float]:
        """See `Objective.weights`."""
        return self.over.weights(batches)

    def sums(self, batch: MicroBatch) -> Sums:
        """The sums over one micro-batch."""
        return self.over.sums(batch)


@torch.no_grad()
def partner_log_probabilities(
    model: LanguageModel, partners: Partners, pairs: Sequence[Partner], most: int, prompts: bool
) -> Iterator[tuple[list[Partner], Tensor]]:
    """The log-probabilities of partners' answers behind rows' prompts, in evaluation mode: by micro-batch the partners,
    and float64 `[partners]` on the model's device.

    Args:
        model: computes them.
        partners: joins prompts and answers.
        pairs: which.
        most: tokens of a micro-batch at most.
        prompts: whether those behind one prompt share it.
    """
    examples = [partners.joined(*pair) for pair in pairs]
    with evaluation_mode(model):
        for batch in pack(examples, most, share=not model.spec.by_length, prompts=prompts):
            hidden = hidden_states(model, batch)
            found = log_probabilities(hidden, model.lm_head, model.spec.scores, batch)
            yield [pairs[number] for number in batch.numbers], found
