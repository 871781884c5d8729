"""Bad steps: those whose loss or gradient norm is not finite, or is far above those of the last steps.

The rule is that of OLMo-core's SkipStepOptimizer: a value is too far if it is more than six standard deviations above
the mean of a window of 128 steps. Three things are added, because a fine-tuning run has a few hundred steps and not a
million. A skipped step does not enter the window. The rule applies from eight steps on, not from half a window on;
while the window is less than half full, a value must also be above twice the largest one. And a standard deviation
counts as at least 1 % of the mean, so that a loss that hardly moves does not make every step bad.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, pstdev

from veneer.text.counting import count_of

WINDOW = 128
"""The most steps that a step is compared with."""
FEWEST = 8
"""The fewest steps that a step is compared with."""
DEVIATIONS = 6.0
FLOOR = 0.01
"""The least standard deviation, as a share of the mean."""
LARGEST = 2.0
"""While the window is not half full, a value is far only above this multiple of the largest one."""
IN_A_ROW = 3
"""The number of consecutive bad steps that end the run."""


def why_bad(window: Sequence[Sequence[float]], loss: float, norm: float) -> str | None:
    """What is wrong with a step; None for a good one.

    Args:
        window: loss and gradient norm of each of the last good steps, the newest last.
        loss: the loss of the step.
        norm: the norm of the step's gradient before clipping.
    """
    values = {"loss": loss, "gradient norm": norm}
    for name, value in values.items():
        if not math.isfinite(value):
            return f"the {name} is {value}"
    for (name, value), before in zip(values.items(), zip(*window, strict=True), strict=False):
        if _is_far(before, value):
            return (
                f"the {name} is {value:.4g}, and {fmean(before):.4g} "
                f"in the mean of the {count_of(len(before), 'step')} before"
            )
    return None


def _is_far(before: Sequence[float], value: float) -> bool:
    if len(before) < FEWEST:
        return False
    mean = fmean(before)
    deviation = max(pstdev(before, mean), FLOOR * abs(mean))
    far = value > mean + DEVIATIONS * deviation
    return far and (len(before) >= WINDOW // 2 or value > LARGEST * max(before))
