"""Double quantisation: the scales of 4-bit weights in 8 bits, in blocks of 256 around their mean."""

from __future__ import annotations

import torch
from torch import Tensor

from veneer.errors import ModelError
from veneer.native.stored import NestedScales
from veneer.quant.dynamic import ABSMAX_FLOOR, DynamicMap, decode, find_nearest, search

NESTED_BLOCK = 256
"""How many scales share one nested scale."""

_CHUNK = 1 << 18
"""How many scales are quantised at a time; a multiple of the block."""


def nested_scales(codes: Tensor, absmax: Tensor, offset: Tensor) -> NestedScales:
    """Scales in 8 bits, scale[i] = map[codes[i]] · absmax[i // 256] + offset, from the tensors that are kept.

    `codes` is uint8 [m], `absmax` float32 [ceil(m/256)], `offset` a float32 scalar (0-D).
    """
    values = search(DynamicMap.SIGNED, codes.device).values
    return NestedScales(codes=codes, values=values, factors=absmax, offset=offset, block=NESTED_BLOCK)


@torch.no_grad()
def quantize_nested(absmax: Tensor) -> NestedScales:
    """Quantise scales, float32 [m].

    Every scale gets the nearest value; ties go to the lower index. bitsandbytes' CPU table misses the nearest value for
    about 0.2 % of scales. The mean is summed in float64, where float32 scales add without rounding, so it does not
    depend on the number of threads. bitsandbytes' float32 mean may differ in its last bits.
    """
    flat = absmax.reshape(-1)
    count = len(flat)
    offset = flat.mean(dtype=torch.float64).float()
    codes = torch.empty(count, dtype=torch.uint8, device=flat.device)
    scale = torch.empty(-(-count // NESTED_BLOCK), dtype=torch.float32, device=flat.device)
    for start in range(0, count, _CHUNK):
        stop = min(count, start + _CHUNK)
        part = flat[start:stop] - offset
        blocks = torch.nn.functional.pad(part, (0, -len(part) % NESTED_BLOCK)).view(-1, NESTED_BLOCK)
        first = start // NESTED_BLOCK
        largest = torch.amax(blocks.abs(), dim=1, out=scale[first : first + len(blocks)])
        # By the reciprocal, as bitsandbytes scales them.
        scaled = blocks * largest.clamp(min=ABSMAX_FLOOR).reciprocal_().unsqueeze(1)
        find_nearest(scaled.view(-1)[: len(part)], DynamicMap.SIGNED, codes[start:stop])
    return nested_scales(codes, scale, offset)


def check_nested(nested: NestedScales) -> None:
    """Raise ModelError unless there is a factor for every block of codes."""
    count = nested.codes.numel()
    if nested.factors.numel() != -(-count // NESTED_BLOCK):
        raise ModelError(f"{count} nested codes need {-(-count // NESTED_BLOCK)} scales; got {nested.factors.numel()}")


@torch.no_grad()
def dequantize_nested(nested: NestedScales) -> Tensor:
    """Decode scales to float32 [m]; the product and the sum are rounded separately, as bitsandbytes does."""
    check_nested(nested)
    return decode(nested.codes.view(-1), nested.factors, DynamicMap.SIGNED).add_(nested.offset)
