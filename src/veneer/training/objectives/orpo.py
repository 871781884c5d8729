"""Odds ratio preference optimisation: fine-tuning on the chosen answers and a penalty on the rejected ones in one loss.

Hong et al., 2024 (arXiv:2403.07691), equations 6 and 7. With ℓ̄ the mean log-probability per token of an answer and log
odds = ℓ̄ − log(1 − exp ℓ̄),

    L = NLL(chosen) + β s(−(log odds_w − log odds_l)),     s(z) = log(1 + eᶻ)

The NLL is divided by the chosen answers' tokens of the step, the other term by its pairs. The NLL is that of the
answer: TRL counts the prompt's tokens too.

Defaults: β 0.1, the λ of the paper's larger models. No reference is needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from veneer.config import OrpoSection
from veneer.data.micro_batches.batches import MicroBatch
from veneer.products import Scores
from veneer.training.objectives.base import Sums
from veneer.training.objectives.documents import (
    NLL,
    PAIR_METRICS,
    answer_tokens,
    chosen_tokens,
    log_probabilities,
    pair_metrics,
)

ORPO = "orpo"
ODDS, RATIO = "log_odds_chosen", "log_odds_ratio"
"""The mean of log odds_w − log odds_l, and of the logarithm of its sigmoid, as TRL names them."""


@dataclass(frozen=True, slots=True)
class Orpo:
    """The NLL of chosen answers and the odds ratio of pairs (`Objective`)."""

    settings: OrpoSection

    def weights(self, batches: Sequence[MicroBatch]) -> Mapping[str, float]:
        """The chosen answers' tokens for the NLL, and the pairs for everything else."""
        pairs = sum(batch.units for batch in batches)
        return {NLL: chosen_tokens(batches), **dict.fromkeys((ORPO, ODDS, RATIO, *PAIR_METRICS), pairs)}

    def sums(self, hidden: Tensor, head: nn.Module, shaping: Scores, batch: MicroBatch) -> Sums:
        """See `Objective.sums`."""
        policy, beta = log_probabilities(hidden, head, shaping, batch), self.settings.beta
        means = policy / answer_tokens(batch, policy)
        odds = means - log_one_minus_exp(means)
        ratio = odds[::2] - odds[1::2]
        likely = logsigmoid(ratio).sum()
        terms = {NLL: -policy[::2].sum(), ORPO: -beta * likely}
        metrics = pair_metrics((beta * means).detach(), policy.detach())
        return Sums(terms, metrics | {ODDS: ratio.detach().sum(), RATIO: likely.detach()})


def log_one_minus_exp(x: Tensor) -> Tensor:
    """log(1 − exp x) for x ≤ 0, without loss of precision at either end (Mächler, 2012, "Accurately computing log(1 −
    exp(−|a|))"). An x of 0, which is a log-probability that was rounded up, is replaced by the next smaller number, at
    which value and gradient are finite."""
    x = x.clamp_max(-torch.finfo(x.dtype).tiny)
    near = x > -0.6931471805599453
    # Each branch gets only the values that it is accurate for, so that the other's gradient cannot become NaN.
    small = torch.where(near, x, torch.full_like(x, -0.1))
    large = torch.where(near, torch.full_like(x, -1.0), x)
    return torch.where(near, torch.log(-torch.expm1(small)), torch.log1p(-torch.exp(large)))
