"""Log-probabilities of whole answers, which the objectives of preferences are based on.

A document's answer y has the log-probability ℓ = Σ log π(y_t | before) over its supervised tokens, including the token
that ends it. Masked tokens count neither in the sum nor in the number of tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from veneer.data.micro_batches.batches import MicroBatch
from veneer.gpu.transfer import sent
from veneer.products import Scores
from veneer.training.objectives.base import Sums
from veneer.training.objectives.head import target_losses

NLL = "nll"
"""The term of the chosen answers' negative log-likelihood."""
TOKEN_BITS = 32
"""The bits of a token's number, below those of a place."""


def log_probabilities(hidden: Tensor, head: nn.Module, shaping: Scores, batch: MicroBatch) -> Tensor:
    """The log-probability of the answer of each document, float64 `[documents]`, with a gradient.

    See `veneer.training.objectives.base.Objective.sums` for the arguments. No more logits are held than those of a
    chunk of supervised tokens.
    """
    tokens = token_log_probabilities(hidden, head, shaping, batch)
    document = document_numbers(batch, hidden.device)
    sums = torch.zeros(len(batch.counts), dtype=torch.float64, device=hidden.device)
    return sums.index_add(0, document, tokens.double())


def token_log_probabilities(hidden: Tensor, head: nn.Module, shaping: Scores, batch: MicroBatch) -> Tensor:
    """The log-probability of each supervised token, float32 or wider `[targets]`, with a gradient; see
    `log_probabilities`."""
    places, targets, uses = _once(batch)
    rows = hidden.index_select(0, sent(places, hidden.device))
    found = -target_losses(rows, head, sent(targets, hidden.device), shaping)
    return found if uses is None else found.index_select(0, sent(uses, hidden.device))


def _once(batch: MicroBatch) -> tuple[Tensor, Tensor, Tensor | None]:
    """The distinct pairs of place and target in a micro-batch, as int64 `[pairs]` each, and the index of its pair for
    each target, `[targets]`, or None if no two are equal. Documents that share more than a prompt share the targets
    there."""
    both = (batch.rows << TOKEN_BITS) + batch.targets
    distinct, uses = torch.unique(both, return_inverse=True)
    if len(distinct) == len(both):
        return batch.rows, batch.targets, None
    return distinct >> TOKEN_BITS, distinct & (2**TOKEN_BITS - 1), uses


def document_numbers(batch: MicroBatch, device: torch.device) -> Tensor:
    """The number of each target's document, int64 `[targets]`."""
    counts = torch.tensor(batch.counts)
    return sent(torch.repeat_interleave(torch.arange(len(counts)), counts), device)


def answer_tokens(batch: MicroBatch, like: Tensor) -> Tensor:
    """The number of supervised tokens of each document, `[documents]` in the dtype and on the device of `like`."""
    return sent(torch.tensor(batch.counts, dtype=like.dtype), like.device)


def chosen_tokens(batches: Sequence[MicroBatch]) -> int:
    """The number of supervised tokens of all chosen answers of pairs."""
    return sum(sum(batch.counts[::2]) for batch in batches)


REWARD_METRICS = {
    "rewards/chosen": True, "rewards/rejected": False, "rewards/margins": True, "rewards/accuracies": True,
}  # fmt: skip
"""The metrics of pairs of rewards, and whether higher is better."""
PAIR_METRICS = {**REWARD_METRICS, "logps/chosen": True, "logps/rejected": False}
"""The metrics of pairs whose answers have log-probabilities, and whether higher is better."""


def pair_weights(term: str, batches: Sequence[MicroBatch], nll: float) -> dict[str, float]:
    """The step-wide weights of a loss of pairs, of its metrics, and of the chosen answers' NLL.

    Args:
        term: the name of the loss, which is divided by the number of pairs, as the metrics are.
        batches: the micro-batches of the step.
        nll: the NLL's weight in the loss, by which its tokens are divided; 0 for no such term.
    """
    pairs = sum(batch.units for batch in batches)
    found: dict[str, float] = {term: pairs, **dict.fromkeys(PAIR_METRICS, pairs)}
    if nll:
        found[NLL] = chosen_tokens(batches) / nll
    return found


def pair_sums(term: str, losses: Tensor, rewards: Tensor, policy: Tensor, nll: float) -> Sums:
    """The terms and metrics of pairs, for the weights of `pair_weights`.

    Args:
        term: the name of the loss, as in `pair_weights`.
        losses: the loss of each pair, `[pairs]`.
        rewards: see `reward_metrics`.
        policy: the log-probabilities ℓ, in the same order.
        nll: the NLL's weight, as in `pair_weights`.
    """
    terms = {term: losses.sum()}
    if nll:
        terms[NLL] = -policy[::2].sum()
    return Sums(terms, pair_metrics(rewards.detach(), policy.detach()))


def reward_metrics(rewards: Tensor) -> dict[str, Tensor]:
    """`REWARD_METRICS`, each a sum over pairs.

    Args:
        rewards: the reward of each answer, chosen and rejected in turn, `[2 · pairs]`.
    """
    chosen, rejected = rewards[::2], rewards[1::2]
    sums = chosen.sum(), rejected.sum(), (chosen - rejected).sum(), (chosen > rejected).sum()
    return dict(zip(REWARD_METRICS, sums, strict=True))


def pair_metrics(rewards: Tensor, policy: Tensor) -> dict[str, Tensor]:
    """The metrics that TRL reports, each a sum over pairs.

    Args:
        rewards: see `reward_metrics`.
        policy: the log-probabilities ℓ, in the same order.
    """
    return {**reward_metrics(rewards), "logps/chosen": policy[::2].sum(), "logps/rejected": policy[1::2].sum()}
