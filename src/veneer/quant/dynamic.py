"""Block-wise 8-bit codes by dynamic maps: for an optimiser's state, which is rewritten at every step, and for scales of
weights.

Dettmers et al., 2022, "8-bit Optimizers via Block-wise Quantization", arXiv:2110.02861: a flattened tensor is cut into
blocks of 256, each scaled by its largest magnitude; an element becomes the index of the nearest of 256 values. The
values are dense around zero and wider apart away from it, so that seven decades of magnitude keep their order. The maps
are those of bitsandbytes. The nearest value is found exactly; bitsandbytes' CPU table misses it for a third of second
moments.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from functools import cache

import torch
from torch import Tensor

ELEMENTS_PER_SCALE = 256
"""How many elements share one scale."""

ABSMAX_FLOOR = 1e-38
"""The least magnitude that a block is divided by, which keeps a block of zeros finite."""
_BIN_SHIFT = 16
"""A bin holds the float32 values that share sign, exponent and the first 7 bits of the mantissa."""


class DynamicMap(Enum):
    """The values of the 256 codes."""

    SIGNED = "signed"
    """The values go from -0.993 to 1, for a mean of gradients and for scales."""
    UNSIGNED = "unsigned"
    """The values go from 0 to 1 and are twice as dense, for a mean of squares."""


@cache
def map_values(which: DynamicMap) -> Tensor:
    """The values of a map, float32 [256], ascending, on the CPU; they are shared: do not write to them.

    The seven decades of the signed map have 1, 2, 4, ... 64 equally spaced values, each with both signs. The unsigned
    map has twice as many in each: it uses the bit of the sign for the fraction. 0 and 1 are added. The arithmetic has
    float32 and float64 steps in the order of bitsandbytes, so that the bytes are the same.
    """
    signed = which is DynamicMap.SIGNED
    values = [0.0, 1.0]
    for decade in range(7):
        edges = torch.linspace(0.1, 1, 2 ** (decade if signed else decade + 1) + 1, dtype=torch.float32)
        magnitudes = (10.0 ** (decade - 6) * ((edges[:-1] + edges[1:]) / 2.0)).tolist()
        values += magnitudes
        if signed:
            values += [-value for value in magnitudes]
    return torch.tensor(sorted(values), dtype=torch.float32)


@dataclass(frozen=True, slots=True)
class Search:
    """The tables by which `find_nearest` finds the nearest value, on one device."""

    values: Tensor
    """The values of the codes, float32 [256]."""
    below: Tensor
    """The number of thresholds below each bin, uint8 [65536]."""
    thresholds: Tensor
    """The threshold above each code, float32 [256]; larger values get the next code. The last one is infinite."""


@cache
def search(which: DynamicMap, device: torch.device) -> Search:
    """The tables of a map; they are shared: do not write to them."""
    values = map_values(which)
    exact = values.double()
    middles = (exact[1:] + exact[:-1]) / 2
    # A float32 exceeds a midpoint exactly if it exceeds the largest float32 that is not above the midpoint.
    nearest = middles.float()
    thresholds = torch.where(nearest.double() > middles, torch.nextafter(nearest, torch.tensor(-torch.inf)), nearest)
    bins = (thresholds.view(torch.int32) >> _BIN_SHIFT) + 32768
    if bool((bins.sort().values.diff() == 0).any()):
        raise AssertionError(f"two thresholds of the {which.value} map share a bin")
    # Find the least element of every bin: the low bits of its magnitude are zeros, or ones if it is negative. A
    # threshold that equals the least element is not below it, so the comparison in `find_nearest` counts it once.
    number = torch.arange(65536, dtype=torch.int32) - 32768
    first = torch.where(number < 0, (number << _BIN_SHIFT) | 0xFFFF, number << _BIN_SHIFT).view(torch.float32)
    below = torch.searchsorted(thresholds, first.nan_to_num(0.0)).to(torch.uint8)
    # The next threshold is in the bin, or after it; in the second case it is above every element of the bin.
    following = torch.cat([thresholds, torch.tensor([torch.inf])])
    return Search(values.to(device), below.to(device), following.to(device))


def scales_of(numel: int) -> int:
    """The number of scales `numel` elements have."""
    return -(-numel // ELEMENTS_PER_SCALE)


@torch.no_grad()
def encode(values: Tensor, which: DynamicMap, codes: Tensor, absmax: Tensor) -> None:
    """Quantise into `codes` and `absmax`; ties go to the lower code.

    Args:
        values: the elements, float32 [n], finite; they are overwritten.
        which: the map.
        codes: receives the codes, uint8 [n].
        absmax: receives the largest magnitude of each block, float32 [ceil(n/256)].
    """
    full = len(values) - len(values) % ELEMENTS_PER_SCALE
    if full:
        blocks = values[:full].view(-1, ELEMENTS_PER_SCALE)
        torch.amax(blocks.abs(), dim=1, out=absmax[: len(blocks)])
        blocks /= absmax[: len(blocks)].clamp(min=ABSMAX_FLOOR).unsqueeze(1)
    if full < len(values):
        absmax[-1] = values[full:].abs().amax()
        values[full:] /= absmax[-1].clamp(min=ABSMAX_FLOOR)
    find_nearest(values, which, codes)


@torch.no_grad()
def find_nearest(values: Tensor, which: DynamicMap, codes: Tensor) -> None:
    """Write the codes of the nearest values of a map, for float32 `values` [n], to `codes`, uint8 [n]; ties go to the
    lower code."""
    tables = search(which, values.device)
    # Two look-ups and one comparison replace a binary search; they ran at four times the rate of torch.bucketize.
    bins = (values.view(torch.int32) >> _BIN_SHIFT).add_(32768)
    below = torch.index_select(tables.below, 0, bins)
    exceeds = values > torch.index_select(tables.thresholds, 0, below.to(torch.int32))
    torch.add(below, exceeds, out=codes)


@torch.no_grad()
def decode(codes: Tensor, absmax: Tensor, which: DynamicMap) -> Tensor:
    """Decode uint8 codes [n] with float32 scales [ceil(n/256)] to float32 [n]: each is its value times its scale."""
    values = torch.index_select(search(which, codes.device).values, 0, codes.to(torch.int32))
    full = len(values) - len(values) % ELEMENTS_PER_SCALE
    values[:full].view(-1, ELEMENTS_PER_SCALE).mul_(absmax[: full // ELEMENTS_PER_SCALE].unsqueeze(1))
    if full < len(values):
        values[full:] *= absmax[-1]
    return values
