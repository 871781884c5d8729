"""Contrastive preference optimisation: DPO with a uniform reference, and fine-tuning on the chosen answers.

Xu et al., 2024 (arXiv:2401.08417), equation 5. With ℓ the log-probability of an answer and s(z) = log(1 + eᶻ),

    L = s(−β(ℓ_w − ℓ_l)) + α NLL(chosen)

The first term is divided by the pairs of the step, the NLL by the chosen answers' tokens of the step.

Defaults: β 0.1 and α 1 are the paper's. No reference is needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from veneer.config import CpoSection
from veneer.data.micro_batches.batches import MicroBatch
from veneer.products import Scores
from veneer.training.objectives.base import Sums
from veneer.training.objectives.documents import log_probabilities, pair_sums, pair_weights

CPO = "cpo"


@dataclass(frozen=True, slots=True)
class Cpo:
    """The contrast of pairs and the NLL of chosen answers (`Objective`)."""

    settings: CpoSection

    def weights(self, batches: Sequence[MicroBatch]) -> Mapping[str, float]:
        """The pairs; for the NLL the chosen answers' tokens, over its weight in the loss."""
        return pair_weights(CPO, batches, self.settings.nll)

    def sums(self, hidden: Tensor, head: nn.Module, shaping: Scores, batch: MicroBatch) -> Sums:
        """See `Objective.sums`."""
        policy, beta = log_probabilities(hidden, head, shaping, batch), self.settings.beta
        losses = -logsigmoid(beta * (policy[::2] - policy[1::2]))
        return pair_sums(CPO, losses, beta * policy, policy, self.settings.nll)
