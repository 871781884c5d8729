"""Reward modelling: a score for every answer, such that the chosen answer of a pair scores above the rejected one.

Bradley and Terry, 1952, in the form of Ouyang et al., 2022 (arXiv:2203.02155), equation 1. With r the score of a whole
text, s(z) = log(1 + eᶻ), and m the margin by which the chosen answer is better (a row's `margin`; Touvron et al., 2023,
arXiv:2307.09288, section 3.2.2),

    L = s(−(r_w − r_l − m)) + c (r_w + r_l)²

Both terms are divided by the pairs of the step. The second one centres the scores, which the first leaves free to drift
together (Eisenstein et al., 2023, arXiv:2312.09244). A score is read from the hidden state of a text's last token.

Defaults: no centring, as in TRL, whose documentation advises 0.01. The rate is a fifth of fine-tuning's; TRL has 1e-4
for adapters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from veneer.config import RewardSection
from veneer.data.micro_batches.batches import Block, MicroBatch
from veneer.gpu.transfer import sent
from veneer.products import Scores
from veneer.training.objectives.base import Sums
from veneer.training.objectives.documents import REWARD_METRICS, reward_metrics

REWARD, CENTRE = "reward", "centre"


@dataclass(frozen=True, slots=True)
class Reward:
    """The losses of pairs of scores (`Objective`)."""

    settings: RewardSection
    score: nn.Module | None
    """Maps hidden states `[rows, dim]` to scores `[rows]`; None before there is a model."""
    margins: Sequence[float] = ()
    """The margin by which the chosen answer of each pair of the run is better; empty if the rows have no margins."""

    def weights(self, batches: Sequence[MicroBatch]) -> Mapping[str, float]:
        """The number of pairs; for the centring the number of pairs over its weight in the loss."""
        pairs = sum(batch.units for batch in batches)
        centring = {CENTRE: pairs / self.settings.centring} if self.settings.centring else {}
        return {REWARD: pairs, **centring, **dict.fromkeys(REWARD_METRICS, pairs)}

    def sums(self, hidden: Tensor, head: nn.Module, shaping: Scores, batch: MicroBatch) -> Sums:
        """See `Objective.sums`. The head of the language model is not used."""
        assert self.score is not None, "a run has its score head before its first step"
        rewards = self.score(hidden.index_select(0, sent(last_tokens(batch), hidden.device))).double()
        chosen, rejected = rewards[::2], rewards[1::2]
        terms = {REWARD: -logsigmoid(chosen - rejected - sent(self._margins(batch), rewards.device)).sum()}
        if self.settings.centring:
            terms[CENTRE] = (chosen + rejected).square().sum()
        return Sums(terms, reward_metrics(rewards.detach()))

    def _margins(self, batch: MicroBatch) -> Tensor:
        """The margin of each pair of a micro-batch, float64 `[pairs]`."""
        rows = [number // 2 for number in batch.numbers[::2]]
        return torch.tensor([self.margins[row] if self.margins else 0.0 for row in rows], dtype=torch.float64)


def last_tokens(batch: MicroBatch) -> Tensor:
    """The place of the last token of each document among the packed tokens, int64 `[documents]`."""
    places, laid = [], 0
    for block in batch.blocks or (Block(batch.shared, batch.lengths),):
        laid += block.shared
        for length in block.lengths:
            laid += length
            places.append(laid - 1)
    return torch.tensor(places, dtype=torch.int64)
