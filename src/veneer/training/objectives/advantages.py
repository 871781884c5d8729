"""Advantages: how far the reward of a sampled answer is above the rewards of its prompt's answers.

With R_i the rewards of the G answers to a prompt,

    group           A_i = R_i − mean(R)                              Shao et al., 2024 (arXiv:2402.03300), equation 4
    leave_one_out   A_i = R_i − mean(R without R_i)                  RLOO: Ahmadian et al., 2024 (arXiv:2402.14740)

Advantages are divided by std + 10⁻⁴, where the standard deviation (with Bessel's correction) is that of the group, as
in GRPO, or of all rewards of the step. They can also stay undivided, since the division gives easy and hard prompts
more weight (Dr. GRPO: Liu et al., 2025, arXiv:2503.20783). An answer without a reward enters no mean, and has the
advantage 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from veneer.formulas import Baseline, ScaleRewards

EPSILON = 1e-4
"""Added to a standard deviation before the division, as in TRL."""


@dataclass(frozen=True, slots=True, eq=False)
class Advantages:
    """The advantages of a step's answers, all float64 `[answers]`."""

    values: NDArray[np.float64]
    """The advantages; 0 for answers without a reward."""
    group_std: NDArray[np.float64]
    """The standard deviation of the rewards of each answer's group; NaN if fewer than two answers have a reward."""


def advantages(
    rewards: NDArray[np.float64], num_generations: int, baseline: Baseline, scale: ScaleRewards
) -> Advantages:
    """The advantages of answers.

    Args:
        rewards: `[prompts · num_generations]`, with the answers to a prompt next to each other; NaN for a missing
            reward.
        num_generations: the number of answers to a prompt.
        baseline: the number that is subtracted from a reward.
        scale: the divisor of the difference.
    """
    rows = rewards.reshape(-1, num_generations)
    known = ~np.isnan(rows)
    counts = known.sum(axis=1, keepdims=True)
    filled = np.where(known, rows, 0.0)
    sums = filled.sum(axis=1, keepdims=True)
    if baseline is Baseline.LEAVE_ONE_OUT:
        off = (sums - filled) / np.maximum(counts - 1, 1)
    else:
        off = np.broadcast_to(sums / np.maximum(counts, 1), rows.shape)
    # A single answer has nothing to be compared with.
    values = np.where(known & (counts > 1), rows - off, 0.0)
    std = np.broadcast_to(_std(filled, known, counts), rows.shape)
    if scale is ScaleRewards.GROUP:
        values = values / (np.nan_to_num(std) + EPSILON)
    elif scale is ScaleRewards.BATCH:
        every = rewards[~np.isnan(rewards)]
        values = values / ((float(every.std(ddof=1)) if len(every) > 1 else 0.0) + EPSILON)
    return Advantages(values.reshape(-1), std.reshape(-1).copy())


def _std(filled: NDArray[np.float64], known: NDArray[np.bool_], counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """The standard deviation of each row's known values, `[rows, 1]`; exactly 0 if all are equal."""
    means = filled.sum(axis=1, keepdims=True) / np.maximum(counts, 1)
    squares = np.where(known, (filled - means) ** 2, 0.0).sum(axis=1, keepdims=True)
    low = np.where(known, filled, np.inf).min(axis=1, keepdims=True)
    high = np.where(known, filled, -np.inf).max(axis=1, keepdims=True)
    found: NDArray[np.float64] = np.sqrt(np.where(low == high, 0.0, squares) / np.maximum(counts - 1, 1))
    return np.where(counts > 1, found, np.nan)
