"""The factor by which a step's loss is multiplied in float16, so that small gradients do not vanish.

float16 has no number between 0 and 6e-8, and none above 65,504. The loss is multiplied before the backward pass. The
gradients, which are float32 by then, are divided by the same factor before they are used (Micikevicius et al., 2018,
arXiv:1710.03740). Factors are powers of two, so that neither operation rounds. If a gradient overflows, the step is
made again with half the factor; after many steps without an overflow the factor is doubled. Both follow from the number
of the step and from the overflows before it, so that a resumed run has the factors of an uninterrupted run.

The numbers are those of `torch.amp.GradScaler`, which skips such a step instead.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

FIRST = 2**16
"""The factor of a run's first step."""
LARGEST = 2**24
"""The largest factor."""
STEADY = 2000
"""The number of steps after which the factor is doubled."""

Changes = list[list[int]]
"""The factor of the first step, and of each step that was made again: pairs of a step and its factor, in order."""


def first_changes(dtype: torch.dtype) -> Changes:
    """The changes that a run in this dtype begins with; empty if the loss is not multiplied."""
    return [[1, FIRST]] if dtype is torch.float16 else []


def scale_at(changes: Sequence[Sequence[int]], step: int) -> int:
    """The factor of the 1-based step; 1 where there are no changes."""
    if not changes:
        return 1
    since, scale = next(change for change in reversed(changes) if change[0] <= step)
    doublings = min((step - since) // STEADY, LARGEST.bit_length())
    return min(LARGEST, scale << doublings)


def lowered(changes: Sequence[Sequence[int]], step: int) -> Changes:
    """The changes after a gradient of the step has overflowed."""
    kept = [list(change) for change in changes if change[0] < step]
    return [*kept, [step, scale_at(changes, step) // 2]]


def overflowed(scale: int, loss: float, norm: float) -> bool:
    """Whether a smaller factor may help: the gradients overflow, but the loss, which is not multiplied, does not."""
    return scale > 1 and math.isfinite(loss) and not math.isfinite(norm)
