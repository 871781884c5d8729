"""What the device that a run would use makes of a few operations, timed.

The sizes are those of a small model (SmolLM2-135M): what is told are rates that a run of it would meet.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from veneer.enums import Products
from veneer.errors import ConfigError
from veneer.machine.hardware import check_products, timed
from veneer.model.attention import PackedAttention
from veneer.model.compiled_step import CACHE_DTYPES
from veneer.model.leaves import DenseLinear
from veneer.model.shape import PLAIN_ATTENTION
from veneer.native.functions import KernelProducts
from veneer.native.library import kernels
from veneer.products import compiled
from veneer.quant.four_bit import QuantLinear
from veneer.quant.int8 import Int8Matrix

MATRIX = (1536, 576)
"""Outputs and inputs of the matrix that is multiplied."""
DOCUMENTS, LENGTH, QUERY_HEADS, HEAD_DIM = 8, 150, 9, 64
"""The attention that is timed."""
ANSWERS = 8
"""Answers at once, each with its next token, by a matrix in NF4."""
PEAK_ROUNDS = 5_000_000
"""Rounds of the loop over registers: some milliseconds, as long as the products, since what slows a machine down for
moments shows in neither of two that are shorter than that."""
ROUNDS = 15
"""Calls of a timed operation, of which the best counts."""


@dataclass(frozen=True, slots=True)
class ProbedRate:
    """10⁹ operations a second, and those that the processor can do in the same instructions, from registers alone."""

    reached: float
    peak: float | None
    """None where veneer's kernels do not compute."""

    @property
    def share(self) -> str:
        """The share of the peak, in words; nothing where there is no peak."""
        if self.peak is None:
            return ""
        return f" ({100 * self.reached / self.peak:.0f} % of the processor's {self.peak:,.0f})"


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """A short probe on the device that a run would use."""

    products: ProbedRate
    """In the compute dtype, 1,152 tokens by a frozen 576 × 1,536 matrix."""
    next_tokens: ProbedRate | None
    """Eight rows by such a matrix as NF4 stores it; None where no kernel of veneer's computes answers."""
    int8_products: float | None
    """The rate in 8 bits, with rounding and scaling; None where they cannot be made."""
    attention: float
    """Milliseconds of causal attention forward and backward, 8 documents of 150 tokens, 9 query and 3 key heads."""
    torch_attention: float
    """Milliseconds of the attention by torch's own attention over a batch."""

    @property
    def attention_rate(self) -> ProbedRate:
        """That of the attention: two products forward and five backward under the causal mask."""
        return ProbedRate(7 * DOCUMENTS * LENGTH**2 * QUERY_HEADS * HEAD_DIM / 1e6 / self.attention, self.products.peak)


def probe(device: torch.device, dtype: torch.dtype) -> Measured:
    """Time a product and attention of the sizes that a small model has."""
    tokens, (columns, width) = 1152, MATRIX
    x = torch.randn(tokens, width, device=device).to(dtype)
    weight = torch.randn(columns, width, device=device)
    layer = DenseLinear(nn.Parameter(weight.to(dtype), requires_grad=False))
    billions = 2 * tokens * width * columns / 1e9
    int8 = None
    if int8_reason(device) is None:
        matrix = Int8Matrix(weight)
        int8 = billions / _seconds(lambda: matrix.multiply(x), device)
    ours, torchs = _attention(device, dtype)
    return Measured(
        products=ProbedRate(billions / _seconds(lambda: layer.product(x), device), _peak(device, dtype)),
        next_tokens=_next_tokens(device, dtype),
        int8_products=int8,
        attention=1000 * _seconds(ours, device),
        torch_attention=1000 * _seconds(torchs, device),
    )


def _next_tokens(device: torch.device, dtype: torch.dtype) -> ProbedRate | None:
    native = kernels()
    if native is None or device.type != "cpu" or dtype not in CACHE_DTYPES:
        return None
    layer = QuantLinear.from_weight(torch.randn(MATRIX))
    weight, x = layer.weight_as_stored(), torch.randn(ANSWERS, MATRIX[1])
    products = native.step_products(dtype)
    seconds = _seconds(lambda: native.rows_product(x, weight, products=products), device)
    billions = 2 * ANSWERS * weight.columns * weight.depth / 1e9
    # None is told of tiles: they are never what such products wait for.
    multiplied = {KernelProducts.FLOATS: torch.float32, KernelProducts.PAIRS: torch.bfloat16}.get(products)
    return ProbedRate(billions / seconds, None if multiplied is None else _peak(device, multiplied))


def int8_reason(device: torch.device) -> str | None:
    """Why 8-bit products cannot be made, or None."""
    try:
        check_products(Products.INT8, device)
    except ConfigError as error:
        return str(error).removeprefix("compute.products int8 ").partition(". Use ")[0]
    return None


def _peak(device: torch.device, dtype: torch.dtype) -> float | None:
    """10⁹ operations a second from registers alone, or None where veneer's kernels do not make the products.

    It is that of one thread times their number: threads that wait for each other on a busy machine would tell less.
    """
    native = kernels()
    if native is None or device.type != "cpu" or not (dtype is torch.float32 or compiled()):
        return None
    operations = torch.get_num_threads() * native.peak(dtype, PEAK_ROUNDS, 1)
    return operations / 1e9 / _seconds(lambda: native.peak(dtype, PEAK_ROUNDS, 1), device)


def _attention(device: torch.device, dtype: torch.dtype) -> tuple[Callable[[], None], Callable[[], None]]:
    documents, length, dim = DOCUMENTS, LENGTH, HEAD_DIM
    tokens = documents * length
    queries, keys, values = (
        torch.randn(tokens, heads, dim, device=device).to(dtype).requires_grad_() for heads in (QUERY_HEADS, 3, 3)
    )
    grad = torch.randn(tokens, QUERY_HEADS, dim, device=device).to(dtype)

    def ours() -> None:
        PackedAttention((length,) * documents).attend(0, queries, keys, values, PLAIN_ATTENTION, None).backward(grad)

    def torchs() -> None:
        q, k, v = (x.view(documents, length, -1, dim).transpose(1, 2) for x in (queries, keys, values))
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        mixed.transpose(1, 2).reshape(tokens, QUERY_HEADS, dim).backward(grad)

    return ours, torchs


def _seconds(action: Callable[[], object], device: torch.device) -> float:
    """Best time of one call, after one that warms up: other programs can only make it longer."""
    timed(action, device)
    return min(timed(action, device) for _ in range(ROUNDS))
