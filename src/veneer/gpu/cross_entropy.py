"""Cross-entropy of rows of scores in Triton, which replaces the scores by their gradient in place.

There is one program per row, which works in blocks of the vocabulary, so that the vocabulary may have any size: a first
pass finds the largest score and the sum of exponentials together, a second writes the gradient. All arithmetic is
float32, regardless of the scores' dtype.

As in `veneer.losses.scores`, the exponentials of all scores but the target's are summed separately. The target's
gradient is then −others / total and the loss log1p(others / target). Both are exact even if the target leads by so much
that its probability rounds to 1.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from veneer.gpu.launch import launch_kernel, next_power_of_two, warps

_BLOCK = 8192
"""Scores in a tile, at most."""


@triton.jit
def _log1p(x: tl.tensor) -> tl.tensor:
    # log(1 + x) = 2·atanh(x / (2 + x)) for 0 ≤ x ≤ 1. The argument is at most 1/3, so that the series may end with
    # its 15th power. Triton's own log1p is a function of CUDA's library, which its interpreter does not know.
    z = x / (2.0 + x)
    q = z * z
    series = 1.0 / 13.0 + q * (1.0 / 15.0)
    series = 1.0 / 9.0 + q * (1.0 / 11.0 + q * series)
    series = 1.0 / 5.0 + q * (1.0 / 7.0 + q * series)
    return 2.0 * z * (1.0 + q * (1.0 / 3.0 + q * series))


@triton.jit
def _row(
    scores: tl.tensor,
    targets: tl.tensor,
    losses: tl.tensor,
    vocab: tl.tensor,
    factor: tl.tensor,
    BLOCK: tl.constexpr,
    BLOCKS: tl.constexpr,
    GRADIENT: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)
    scores += row * vocab
    target = tl.load(targets + row)
    # A target outside the vocabulary makes a loss of NaN, which a run notices, and reads no foreign memory.
    legal = (target >= 0) & (target < vocab)
    target_score = tl.load(scores + target, mask=legal, other=float("nan")).to(tl.float32)

    # Every lane of the tile keeps its own largest score and sum; one reduction at the end joins them. The floor is
    # finite, since −inf − (−inf) is NaN, and only −inf itself is below it.
    lane = tl.arange(0, BLOCK)
    largest = tl.full((BLOCK,), -3.4028234663852886e38, tl.float32)
    total = tl.zeros((BLOCK,), tl.float32)
    for step in range(BLOCKS):
        column = step * BLOCK + lane
        score = tl.load(scores + column, mask=column < vocab, other=float("-inf")).to(tl.float32)
        higher = tl.maximum(largest, score)
        counted = (column < vocab) & (column != target)
        total = total * tl.exp(largest - higher) + tl.where(counted, tl.exp(score - higher), 0.0)
        largest = higher
    top = tl.max(largest, axis=0)
    others = tl.sum(total * tl.exp(largest - top), axis=0)

    shifted = target_score - top
    own = tl.exp(shifted)
    everything = others + own
    # Where the target is unlikely its exponential may underflow; there log(total) − shifted is the accurate form.
    leading = _log1p(tl.minimum(others / tl.maximum(own, 1e-37), 1.0))
    trailing = tl.log(everything) - shifted
    tl.store(losses + row, tl.where(own > others, leading, trailing))

    if GRADIENT:
        for step in range(BLOCKS):
            column = step * BLOCK + lane
            score = tl.load(scores + column, mask=column < vocab, other=0.0).to(tl.float32)
            share = tl.exp(score - top) / everything
            share = tl.where(column == target, -(others / everything), share)
            tl.store(scores + column, (share * factor).to(scores.dtype.element_ty), mask=column < vocab)


def cross_entropy_in_place(scores: Tensor, targets: Tensor, *, gradient: bool = True, factor: float = 1.0) -> Tensor:
    """Losses of `targets` under softmax(scores), float32 `[rows]`; `scores` becomes d(sum of losses)/d(scores).

    Args:
        scores: `[rows, vocab]`, contiguous; float32, bfloat16 or float16. Overwritten, in its dtype.
        targets: int64 `[rows]`, contiguous.
        gradient: without it `scores` stays as it is.
        factor: a factor of the gradient, applied before it is rounded.
    """
    rows, vocab = scores.shape
    losses = torch.empty(rows, dtype=torch.float32, device=scores.device)
    block = min(_BLOCK, next_power_of_two(vocab))
    constants = {"BLOCK": block, "BLOCKS": -(-vocab // block), "GRADIENT": gradient, "num_warps": warps(block)}
    launch_kernel(_row, (rows,), scores, (scores, targets, losses, vocab, factor), constants)
    return losses
