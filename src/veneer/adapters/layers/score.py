"""The score head of a reward model: one number for a text, from the hidden state of its last token.

It is the head of transformers' `…ForSequenceClassification` with one label: r = w · h, without a bias. An adapter with
such a head is a PEFT adapter of `task_type: SEQ_CLS`, whose `modules_to_save` has `score`; its files contain
`score.weight`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

SCORE = "score"
"""The name of the module in transformers' models."""
SCORE_WEIGHT = f"{SCORE}.weight"
"""The name of its tensor in an adapter's files."""
INITIAL_DEVIATION = 0.02
"""Standard deviation of a new head's weights: `initializer_range` of nearly all models."""


class ScoreHead(nn.Module):
    """Scores hidden states.

    Args:
        weight: w as a matrix `[1, dim]`, float32.
    """

    def __init__(self, weight: Tensor):
        super().__init__()
        self.weight = nn.Parameter(weight)

    @classmethod
    def drawn(cls, dim: int, draws: torch.Generator, device: torch.device) -> ScoreHead:
        """A new head of normal weights."""
        return cls(torch.empty(1, dim).normal_(std=INITIAL_DEVIATION, generator=draws).to(device))

    def forward(self, hidden: Tensor) -> Tensor:
        """Map `[rows, dim]` to scores `[rows]`, in float32 or wider."""
        wide = hidden.to(torch.promote_types(hidden.dtype, self.weight.dtype))
        return (wide @ self.weight.t().to(wide.dtype))[:, 0]
