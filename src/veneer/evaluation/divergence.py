"""KL(base ‖ adapter): how far the adapter's predictions have moved from the base's on texts, token by token.

It needs no answers and no task. If an adapter was trained on one subject, the divergence on texts about another shows
what else it changed, long before a benchmark does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from veneer.adapters.adapter import Adapter
from veneer.data.encoded.chat import Example
from veneer.evaluation.scoring import grouped, target_states
from veneer.model.language import LanguageModel
from veneer.model.mode import evaluation_mode

CHUNK = 256
"""The number of targets whose whole distributions are held at a time."""


@torch.no_grad()
def row_divergences(
    model: LanguageModel,
    adapter: Adapter,
    examples: Sequence[Example],
    *,
    on_done: Callable[[int], None] = lambda rows: None,
) -> list[float]:
    """The divergence of every example, in nats summed over its supervised tokens.

    Args:
        model: the base with the adapter on it.
        adapter: the adapter, which is switched off to compute the base's part.
        examples: the rows.
        on_done: gets the number of rows that have been computed, as they are.
    """
    sums: list[float] = []
    with evaluation_mode(model):
        for batches in grouped(examples):
            tuned, _ = target_states(model, batches)
            with adapter.disabled():
                base, _ = target_states(model, batches)
            pieces = []
            for start in range(0, len(base), CHUNK):
                with adapter.disabled():
                    before = _log_probabilities(model, base[start : start + CHUNK])
                after = _log_probabilities(model, tuned[start : start + CHUNK])
                pieces.append((before.exp() * (before - after)).sum(-1))
            values = torch.cat(pieces).double().cpu().numpy() if pieces else np.zeros(0)
            borders = np.cumsum([0, *(batch.supervised for batch in batches)])
            # Rounding may leave a divergence of 0 slightly below 0.
            sums += [max(0.0, float(values[a:b].sum())) for a, b in pairwise(borders)]
            on_done(len(batches))
    return sums


def _log_probabilities(model: LanguageModel, hidden: Tensor) -> Tensor:
    """The log-probabilities of the vocabulary, float32 `[rows, vocab_size]`."""
    return torch.log_softmax(model.logits(hidden).float(), dim=-1)
