"""How A and B start.

An initialiser is `(weight shape, rank, generator) -> (A, B)`; it is drawn in float32 on the CPU, so that a seed means
the same adapter on every device.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def kaiming(in_features: int, out_features: int, rank: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A uniform in ±1/√in_features, B zero: the update starts at exactly nothing.

    The draws are PEFT's, in its order (A, a B that is thrown away, A again), so that the same seed gives the same
    adapter there and here.
    """
    a = torch.empty(rank, in_features)
    b = torch.empty(out_features, rank)
    for tensor in (a, b, a):
        nn.init.kaiming_uniform_(tensor, a=math.sqrt(5), generator=generator)
    return a, b.zero_()
