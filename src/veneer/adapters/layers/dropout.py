"""Dropout of an update's inputs (Srivastava et al., 2014; PEFT's `lora_dropout`).

On a CPU a mask is made from random bits, sixteen for each element, which are compared with the probability. Torch's own
`bernoulli_` draws a number of 53 bits for each and takes three to five times as long (docs/benchmarks.md). So the
probability is rounded to a multiple of 1 / 65,536, and kept elements are scaled by the rounded one, so that means stay
the same.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

DISTINCT_DRAWS = 2**16
"""Number of different draws for an element."""
LOWEST_DRAW = -(2**15)
"""The lowest draw: sixteen bits with a sign."""
DRAWS_AT_ONCE = 4
"""Number of draws that 64 random bits make."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Dropout:
    """Dropout of the update's inputs in training."""

    probability: float = 0.0
    generator: torch.Generator | None = None
    """Generator of the masks, needed if `probability` is above 0."""

    def __call__(self, x: Tensor) -> Tensor:
        """Drop elements of x and scale up the rest; x itself if nothing is dropped."""
        return x if self.probability == 0.0 else x * self._mask(x)

    def _mask(self, x: Tensor) -> Tensor:
        """0 where an element of x is dropped, otherwise its factor; same shape and dtype as x."""
        if x.device.type != "cpu":
            keep = torch.empty(x.shape, dtype=x.dtype, device=x.device)
            return keep.bernoulli_(1.0 - self.probability, generator=self.generator).div_(1.0 - self.probability)
        words = torch.empty(math.ceil(x.numel() / DRAWS_AT_ONCE), dtype=torch.int64)
        draws = words.random_(torch.iinfo(torch.int64).min, None, generator=self.generator).view(torch.int16)
        # At least one of the possible draws drops, and at least one keeps.
        dropping = min(max(round(self.probability * DISTINCT_DRAWS), 1), DISTINCT_DRAWS - 1)
        kept = draws[: x.numel()].ge_(LOWEST_DRAW + dropping)
        factor = torch.tensor(DISTINCT_DRAWS / (DISTINCT_DRAWS - dropping), dtype=x.dtype)
        if x.dtype.itemsize == kept.dtype.itemsize:
            # In place: a mask is kept for backward, and a tensor that is freed next to it leaves a hole in the heap.
            return kept.mul_(factor.view(torch.int16)).view(x.dtype).view(x.shape)
        return kept.to(x.dtype).mul_(factor).view(x.shape)


class DropsInputs(ABC):
    """A layer whose update reads its inputs after dropout."""

    @property
    @abstractmethod
    def dropout(self) -> Dropout:
        """Dropout of the update's inputs."""

    @abstractmethod
    def from_inputs(self, x: Tensor, adapted: Tensor) -> Tensor:
        """The outputs for inputs `x` `[tokens, in_features]` of the base and `adapted` of the update, which are `x`
        after dropout, or `x` itself."""
