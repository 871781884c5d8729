"""Products of one and of sixteen rows with packed weights, at an 8B model's shapes; a part of gpu.py.

Three ways beside each other: from the codes in one kernel, with the weight decoded for each product, and with a weight
in 16 bits that is there already. Every product meets another weight, so that none comes from the card's cache.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import cycle
from typing import TypeVar

import torch
from gpu_shapes import random_tensor
from torch import Tensor

from veneer.gpu.few_rows import packed_choice
from veneer.model.leaves import DenseLinear
from veneer.products import stored_linear
from veneer.quant.four_bit import QuantLinear

SHAPES = ((4096, 4096), (14_336, 4096), (4096, 14_336))
SMALL = ((64, 128),)
CACHE_BYTES = 2**28
"""Codes of all weights of a shape together, at least: more than the cache of any card holds."""
PRODUCTS = 200


Layer = TypeVar("Layer")


@torch.no_grad()
def microseconds(product: Callable[[Tensor, Layer], Tensor], x: Tensor, layers: Sequence[Layer], count: int) -> float:
    """Microseconds of a product, on the average of `count` that are asked for without waiting between them."""
    for layer in layers[:3]:
        product(x, layer)
    if x.is_cuda:
        torch.cuda.synchronize(x.device)
    begun = time.perf_counter()
    for _, layer in zip(range(count), cycle(layers), strict=False):
        product(x, layer)
    if x.is_cuda:
        torch.cuda.synchronize(x.device)
    return 1e6 * (time.perf_counter() - begun) / count


def run_packed(device: torch.device, *, dry: bool) -> None:
    """Print a line for each shape and number of rows; `dry` computes a few small ones."""
    dtype = torch.bfloat16
    if device.type == "cuda":
        found = packed_choice(device, dtype)
        print(f"products with packed weights: {'used' if found.used else 'not used'} ({found.reason})", flush=True)
    for columns, depth in SMALL if dry else SHAPES:
        copies = 2 if dry else -(-CACHE_BYTES // (columns * depth // 2))
        dense = [DenseLinear(torch.nn.Parameter(random_tensor((columns, depth), device), False)) for _ in range(copies)]
        layers = [QuantLinear.from_weight(layer.weight) for layer in dense]
        for rows in (1, 16):
            x = torch.randn(rows, depth, device=device).to(dtype)
            count = 4 if dry else PRODUCTS
            packed = microseconds(lambda x, layer: layer.product(x), x, layers, count)
            decoded = microseconds(stored_linear, x, layers, count)
            plain = microseconds(stored_linear, x, dense, count)
            print(
                f"{rows:2} rows, {columns:6,} × {depth:6,}: packed {packed:,.0f} µs, decoded {decoded:,.0f} µs, "
                f"16 bits {plain:,.0f} µs; codes at {layers[0].nbytes / packed / 1e3:,.0f} GB/s",
                flush=True,
            )
