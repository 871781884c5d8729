"""Group relative policy optimisation, on answers that the policy has sampled and rewards have scored.

Shao et al., 2024 (arXiv:2402.03300), equations 3 and 4. With π the policy, π_old the one that sampled, π_ref the
reference, A the advantage of an answer (`veneer.training.objectives.advantages`), and for its token t

    ρ_t = π(y_t) / π_old(y_t)
    k_t = exp(d) − d − 1,   d = log π_ref(y_t) − log π(y_t)           k3: Schulman, 2020
    l_t = −min(ρ_t A, clip(ρ_t, 1 − ε, 1 + ε_high) A) + β ρ_t k_t

The ρ_t before k_t makes the gradient of the divergence estimate unbiased. ε_high above ε is "clip higher" of DAPO (Yu
et al., 2025, arXiv:2503.14476). `importance_sampling_level: sequence` uses ρ = exp(mean_t log ρ_t) for all tokens of an
answer (GSPO: Zheng et al., 2025, arXiv:2507.18071, equation 7), and `product` uses exp(Σ_t log ρ_t) (RLOO); k_t then
has no factor. Losses are divided, over the whole step and only over answers that count, as

    grpo      Σ_i (1/|y_i|) Σ_t l_t / answers                         the paper
    dapo      Σ_i Σ_t l_t / tokens                                    DAPO, equation 8
    dr_grpo   Σ_i Σ_t l_t / (answers · longest answer)                Dr. GRPO: Liu et al., 2025 (arXiv:2503.20783)

Log-probabilities are those of the scores divided by the sampling temperature. Tokens are those that were sampled,
including the one that ends the answer; nothing is tokenised again.

Defaults: ε 0.2 and 8 answers a prompt are TRL's, as are `dapo`, no reference (β 0) and the division by the group's
standard deviation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from veneer.config import GrpoSection
from veneer.data.micro_batches.batches import MicroBatch
from veneer.formulas import GrpoLoss, ImportanceLevel, KlPlace
from veneer.gpu.transfer import sent
from veneer.products import Scores
from veneer.training.objectives.base import Sums
from veneer.training.objectives.documents import document_numbers, token_log_probabilities
from veneer.training.rollouts.table import RolloutTable

POLICY, KL_TERM = "policy_loss", "kl_loss"
KL, ENTROPY = "kl", "entropy"
CLIP_LOW, CLIP_HIGH, CLIP_REGION = "clip_ratio/low_mean", "clip_ratio/high_mean", "clip_ratio/region_mean"
SAMPLER = "sampling/logp_difference"
"""The difference between the log-probabilities of sampler and policy."""


@dataclass(frozen=True, slots=True)
class Grpo:
    """The clipped objective of sampled answers (`Objective`)."""

    settings: GrpoSection
    table: RolloutTable
    """The answers of the step."""

    @property
    def held(self) -> bool:
        """Whether the divergence from the reference is a term of the loss."""
        return self.settings.beta > 0 and self.settings.kl_in is KlPlace.LOSS

    def scaled(self, shaping: Scores) -> Scores:
        """The shaping of scores that are divided by the temperature: s/T, and a soft cap of c/T."""
        heat, cap = self.settings.temperature, shaping.softcap
        return replace(shaping, scale=shaping.scale / heat, softcap=None if cap is None else cap / heat)

    def weights(self, batches: Sequence[MicroBatch]) -> Mapping[str, float]:
        """The answers or tokens that count in the step, depending on `loss_type`; for metrics the number of values in
        their means."""
        answers, tokens = 0.0, 0.0
        known: dict[str, int] = dict.fromkeys(self.table.metrics, 0)
        compared = 0
        for batch in batches:
            counted = self.table.counted_of(batch)
            answers += float(counted.sum())
            tokens += float(counted @ torch.tensor(batch.counts, dtype=torch.float64))
            for name, values in self.table.metrics.items():
                known[name] += int((~np.isnan(values[list(batch.numbers)])).sum())
            compared += self._compared(batch)[1]
        weight = {
            GrpoLoss.GRPO: answers,
            GrpoLoss.DAPO: tokens,
            GrpoLoss.DR_GRPO: answers * self.settings.max_completion_length,
        }[self.settings.loss_type]
        found = {POLICY: weight, KL_TERM: weight / (self.settings.beta or 1.0), SAMPLER: compared, **known}
        found |= dict.fromkeys((KL, ENTROPY, CLIP_LOW, CLIP_HIGH, CLIP_REGION), tokens)
        # A step in which no answer counts has a loss of 0.
        return {name: value or 1.0 for name, value in found.items()}

    def sums(self, hidden: Tensor, head: nn.Module, shaping: Scores, batch: MicroBatch) -> Sums:
        """See `Objective.sums`."""
        settings, table = self.settings, self.table
        policy = token_log_probabilities(hidden, head, self.scaled(shaping), batch).double()
        device = policy.device
        counts, document = sent(torch.tensor(batch.counts), device), document_numbers(batch, device)
        counted = sent(table.counted_of(batch), device)[document]
        gains = sent(table.advantages_of(batch), device)[document]
        old = table.tokens_of(table.old, batch)
        log_ratio = policy - (policy.detach() if old is None else sent(old, device))
        ratio = torch.exp(by_level(log_ratio, document, counts, settings.importance_sampling_level))
        low, high = 1 - settings.epsilon, 1 + (settings.epsilon_high or settings.epsilon)
        share = counted / counts[document] if settings.loss_type is GrpoLoss.GRPO else counted
        terms = {POLICY: (share * clipped_loss(ratio, gains, low, high)).sum()}
        below, above = (ratio.detach() < low) & (gains < 0), (ratio.detach() > high) & (gains > 0)
        metrics: dict[str, float | Tensor] = {
            ENTROPY: -(counted * policy.detach()).sum(),
            CLIP_LOW: (counted * below).sum(),
            CLIP_HIGH: (counted * above).sum(),
            CLIP_REGION: (counted * (below | above)).sum(),
        }
        sampled = self._compared(batch)[0]
        if sampled is not None:
            metrics[SAMPLER] = (policy.detach() - sent(sampled, device)).abs().nansum()
        reference = table.tokens_of(table.reference, batch)
        if settings.beta and (reference is not None or not batch.numbers):
            apart = k3(policy, policy.detach() if reference is None else sent(reference, device))
            metrics[KL] = (counted * apart.detach()).sum()
            if self.held:
                weighed = ratio * apart if settings.importance_sampling_level is ImportanceLevel.TOKEN else apart
                terms[KL_TERM] = (share * weighed).sum()
        if batch.numbers:
            metrics |= {name: float(np.nansum(values[list(batch.numbers)])) for name, values in table.metrics.items()}
        return Sums(terms, metrics)

    def _compared(self, batch: MicroBatch) -> tuple[Tensor | None, int]:
        """The sampler's log-probabilities of the targets, and the number of those that it reported and that can be
        compared."""
        sampled = None if self.table.old is not None else self.table.tokens_of(self.table.sampled, batch)
        return sampled, 0 if sampled is None else int((~sampled.isnan()).sum())


def by_level(log_ratio: Tensor, document: Tensor, counts: Tensor, level: ImportanceLevel) -> Tensor:
    """The logarithm of each token's ratio, `[targets]`, at the level of the token or of its whole answer.

    Args:
        log_ratio: the log-ratio of each token, `[targets]`.
        document: the number of each token's document, `[targets]`.
        counts: the number of tokens of each document, `[documents]`.
        level: the level of the ratio.
    """
    if level is ImportanceLevel.TOKEN:
        return log_ratio
    sums = torch.zeros(len(counts), dtype=log_ratio.dtype, device=log_ratio.device).index_add(0, document, log_ratio)
    return (sums / counts if level is ImportanceLevel.SEQUENCE else sums)[document]


def clipped_loss(ratio: Tensor, gains: Tensor, low: float, high: float) -> Tensor:
    """−min(ρA, clip(ρ, low, high) A) of each token, `[targets]`."""
    return -torch.minimum(ratio * gains, ratio.clamp(low, high) * gains)


def k3(policy: Tensor, reference: Tensor) -> Tensor:
    """exp(d) − d − 1 with d = log π_ref − log π: an estimate of the divergence that is never negative, `[targets]`."""
    apart = reference - policy
    return torch.expm1(apart) - apart
