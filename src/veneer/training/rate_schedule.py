"""The learning rate over the steps of a run."""

from __future__ import annotations

import math
from dataclasses import dataclass

from veneer.enums import Schedule


@dataclass(frozen=True, kw_only=True, slots=True)
class RateSchedule:
    """A warm-up, followed by a decay."""

    peak: float
    steps: int
    warmup: float
    """The share of the steps over which the rate rises."""
    shape: Schedule
    end: float
    """The rate at the end of the decay, as a share of the peak. The step after the last one would have it, as in
    transformers, so that no step is made at a rate of 0."""

    def at(self, step: int) -> float:
        """The rate of the 1-based `step`: it rises to the peak, then falls towards `end`."""
        rising = math.ceil(self.warmup * self.steps)
        if step <= rising:
            return self.peak * step / (rising + 1)
        if self.shape is Schedule.CONSTANT:
            return self.peak
        done = (step - rising - 1) / max(1, self.steps - rising)
        left = 1 - done if self.shape is Schedule.LINEAR else 0.5 * (1 + math.cos(math.pi * done))
        return self.peak * (self.end + (1 - self.end) * left)
