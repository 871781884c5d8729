"""Direct preference optimisation, on pairs of a chosen answer w and a rejected answer l to one prompt.

Rafailov et al., 2023 (arXiv:2305.18290), equation 7. With ℓ the log-probability of an answer under the policy,
ℓ_ref that under the reference, Δ = ℓ − ℓ_ref, δ = Δ_w − Δ_l and s(z) = log(1 + eᶻ), the loss of a pair is

    sigmoid       (1 − ε) s(−βδ) + ε s(βδ)                        ε > 0: conservative DPO (Mitchell, 2023)
    robust        [(1 − ε) s(−βδ) − ε s(βδ)] / (1 − 2ε)           Chowdhury et al., 2024 (arXiv:2403.00409), equation 8
    hinge         max(0, 1 − βδ)                                  SLiC: Zhao et al., 2023 (arXiv:2305.10425)
    ipo           (δ̄ − 1/2β)²                                     Azar et al., 2023 (arXiv:2310.12036), equation 17
    sigmoid_norm  s(−βδ̄)                                          length-normalised DPO: Lambert et al., 2024
                                                                  (arXiv:2411.15124), section 5.1.2

where δ̄ is δ of mean log-probabilities per token. The sum over pairs is divided by the pairs of the step. `nll` adds α
times the chosen answers' mean cross-entropy per token (RPO: Pang et al., 2024, arXiv:2404.19733, equation 1, which
takes the mean over answers; here it is divided by the chosen answers' tokens in the step, like the cross-entropy of
fine-tuning).

Defaults: β 0.1, ε 0 and no NLL are those of the papers' main experiments and of TRL. For `ipo`, β is the paper's τ; 0.1
is TRL's. For `sigmoid_norm` the paper has β 5, since means are smaller than sums.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from veneer.config import DpoSection
from veneer.data.micro_batches.batches import MicroBatch
from veneer.formulas import DpoLoss
from veneer.gpu.transfer import sent
from veneer.products import Scores
from veneer.training.objectives.base import Sums
from veneer.training.objectives.documents import answer_tokens, log_probabilities, pair_sums, pair_weights
from veneer.training.objectives.reference import ReferenceTable

DPO = "dpo"
BY_MEANS = (DpoLoss.IPO, DpoLoss.SIGMOID_NORM)
"""The losses that use mean log-probabilities per token."""


@dataclass(frozen=True, slots=True)
class Dpo:
    """The losses of pairs against a reference (`Objective`)."""

    settings: DpoSection
    reference: ReferenceTable
    """The reference's log-probabilities."""

    def weights(self, batches: Sequence[MicroBatch]) -> Mapping[str, float]:
        """The number of pairs; for the NLL the number of the chosen answers' tokens, over its weight in the loss."""
        return pair_weights(DPO, batches, self.settings.nll)

    def sums(self, hidden: Tensor, head: nn.Module, shaping: Scores, batch: MicroBatch) -> Sums:
        """See `Objective.sums`."""
        policy = log_probabilities(hidden, head, shaping, batch)
        reference = sent(self.reference.of(batch), policy.device)
        compared, against = policy, reference
        if self.settings.loss in BY_MEANS:
            tokens = answer_tokens(batch, policy)
            compared, against = policy / tokens, reference / tokens
        gains = compared - against
        losses = dpo_loss(gains[::2] - gains[1::2], self.settings)
        return pair_sums(DPO, losses, self.settings.beta * (policy - reference), policy, self.settings.nll)


def dpo_loss(delta: Tensor, settings: DpoSection) -> Tensor:
    """The loss of each pair, `[pairs]`.

    Args:
        delta: how much more the policy prefers the chosen answer than the reference does, in nats, `[pairs]`.
        settings: β, ε and the formula.
    """
    beta, epsilon = settings.beta, settings.label_smoothing
    right, swapped = -logsigmoid(beta * delta), -logsigmoid(-beta * delta)
    match settings.loss:
        case DpoLoss.SIGMOID:
            return (1 - epsilon) * right + epsilon * swapped
        case DpoLoss.ROBUST:
            return ((1 - epsilon) * right - epsilon * swapped) / (1 - 2 * epsilon)
        case DpoLoss.HINGE:
            return torch.relu(1 - beta * delta)
        case DpoLoss.IPO:
            return (delta - 1 / (2 * beta)).square()
        case DpoLoss.SIGMOID_NORM:
            return right
