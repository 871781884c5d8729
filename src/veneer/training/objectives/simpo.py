"""Simple preference optimisation: the reward of an answer is its mean log-probability per token.

Meng et al., 2024 (arXiv:2405.14734), equation 6. With ℓ̄ the mean log-probability per token and s(z) = log(1 + eᶻ),

    L = s(γ − β(ℓ̄_w − ℓ̄_l)) + α NLL(chosen)

The first term is divided by the pairs of the step, the NLL by the chosen answers' tokens of the step.

Defaults: β 2.5 and γ 1.375 (γ/β = 0.55) are the paper's for an instruction-tuned model; α is 0, since SimPO has no such
term (TRL's trainer adds one of weight 1 by default). No reference is needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from veneer.config import SimpoSection
from veneer.data.micro_batches.batches import MicroBatch
from veneer.products import Scores
from veneer.training.objectives.base import Sums
from veneer.training.objectives.documents import answer_tokens, log_probabilities, pair_sums, pair_weights

SIMPO = "simpo"


@dataclass(frozen=True, slots=True)
class Simpo:
    """The contrast of mean log-probabilities with a target margin (`Objective`)."""

    settings: SimpoSection

    def weights(self, batches: Sequence[MicroBatch]) -> Mapping[str, float]:
        """The pairs; for the NLL the chosen answers' tokens, over its weight in the loss."""
        return pair_weights(SIMPO, batches, self.settings.nll)

    def sums(self, hidden: Tensor, head: nn.Module, shaping: Scores, batch: MicroBatch) -> Sums:
        """See `Objective.sums`."""
        settings, policy = self.settings, log_probabilities(hidden, head, shaping, batch)
        rewards = settings.beta * policy / answer_tokens(batch, policy)
        losses = -logsigmoid(rewards[::2] - rewards[1::2] - settings.gamma)
        return pair_sums(SIMPO, losses, rewards, policy, settings.nll)
