"""KTO's reference point: the mean log-ratio of a step's answers to other prompts, before the step's first backward.

The policy's log-probabilities of these answers are a forward pass of the step itself. The reference's follow from the
rows of every step, which the seed gives, so that they are computed before the first step with the other ones
(`veneer.training.reference`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from veneer.data.batches import MicroBatch, pack
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

    def prepared(self, batches: Sequence[MicroBatch]) -> Sequence[MicroBatch]:
        """The micro-batches with the reference point of all of them."""
        pairs = self.partners.of([number for batch in batches for number in batch.numbers])
        most = max((len(batch.tokens) for batch in batches), default=1)
        policy = dict(partner_log_probabilities(self.over.model, self.partners, pairs, most))
        gains = [policy[pair] - self.reference[pair] for pair in pairs]
        point = max(0.0, sum(gains) / len(gains)) if gains else 0.0
        return [replace(batch, baseline=point) for batch in batches]

    def weights(self, batches: Sequence[MicroBatch]) -> Mapping[str, float]:
        """See `Objective.weights`."""
        return self.over.weights(batches)

    def sums(self, batch: MicroBatch) -> Sums:
        """The sums over one micro-batch."""
        return self.over.sums(batch)


@torch.no_grad()
def partner_log_probabilities(
    model: LanguageModel, partners: Partners, pairs: Sequence[Partner], most: int
) -> Iterator[tuple[Partner, float]]:
    """The log-probability of each partner's answer behind a row's prompt, in evaluation mode.

    Args:
        model: computes them.
        partners: joins prompts and answers.
        pairs: which.
        most: tokens of a micro-batch at most.
    """
    examples = [partners.joined(*pair) for pair in pairs]
    with evaluation_mode(model):
        for batch in pack(examples, most, share=not model.spec.by_length):
            hidden = hidden_states(model, batch)
            found = log_probabilities(hidden, model.lm_head, model.spec.scores, batch)
            yield from zip((pairs[number] for number in batch.numbers), found.tolist(), strict=True)
