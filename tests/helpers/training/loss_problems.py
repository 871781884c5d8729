"""Hidden states, a head and targets, and their losses and gradients from the definition."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def problem(rows: int, vocab: int = 37, dim: int = 12, *, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(rows, dim, generator=generator, dtype=torch.float64)
    weight = torch.randn(vocab, dim, generator=generator, dtype=torch.float64)
    return hidden, weight, torch.randint(0, vocab, (rows,), generator=generator)


def written_out(hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Losses of the rows and the gradients of their sum, one row at a time in float64, from the definition."""
    hidden, weight = hidden.double(), weight.double()
    losses, grad_hidden, grad_weight = [], torch.zeros_like(hidden), torch.zeros_like(weight)
    for row, target in enumerate(targets.tolist()):
        scores = weight @ hidden[row]
        largest = float(scores.max())
        total = sum(math.exp(float(score) - largest) for score in scores)
        losses.append(largest + math.log(total) - float(scores[target]))
        for token, score in enumerate(scores.tolist()):
            slope = math.exp(score - largest) / total - (token == target)
            grad_hidden[row] += slope * weight[token]
            grad_weight[token] += slope * hidden[row]
    return torch.tensor(losses, dtype=torch.float64), grad_hidden, grad_weight


def leaves(hidden: Tensor, weight: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    return tuple(x.detach().to(dtype, copy=True).requires_grad_() for x in (hidden, weight))  # type: ignore[return-value]
