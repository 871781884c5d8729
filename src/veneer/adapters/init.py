"""How A and B start: one function for each of `veneer.config.Init`, in a table.

Draws are made in float32 on the CPU from a generator, so that a seed means the same adapter on every device; they are
PEFT's, in its order, so that it means the same adapter there, too. (Over a base in bfloat16 PEFT rounds what it draws
to bfloat16; here it stays float32.)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from veneer.enums import Init
from veneer.errors import AdapterError


@dataclass(frozen=True, kw_only=True, slots=True)
class TargetLayer:
    """What a start may be made from."""

    path: str
    in_features: int
    out_features: int
    rank: int
    scale: float
    generator: torch.Generator
    weight: Callable[[], Tensor]
    """The weight that is multiplied with, `[out, in]` float32."""
    original: Callable[[], Tensor] | None = None
    """The weight before it was quantised, `[out, in]` float32; None where that is not known."""
    directions: Tensor | None = None
    """For EVA: what the layer's inputs vary in most, `[rank, in]` float32 with orthonormal rows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class InitialFactors:
    """A `[rank, in]` and B `[out, rank]`, float32."""

    a: Tensor
    b: Tensor
    subtracted: bool = False
    """Whether the product that they start with is taken away for good, so that the model starts as its base."""


def kaiming(layer: TargetLayer) -> InitialFactors:
    """A uniform in ±1/√in_features, B zero: the update starts at exactly nothing.

    The draws are PEFT's: A, a B that is thrown away, A again.
    """
    a, b = _drawn_and_dropped(layer)
    nn.init.kaiming_uniform_(a, a=math.sqrt(5), generator=layer.generator)
    return InitialFactors(a=a, b=b.zero_())


def gaussian(layer: TargetLayer) -> InitialFactors:
    """A normal with deviation 1 / rank, B zero."""
    a, b = _drawn_and_dropped(layer)
    return InitialFactors(a=a.normal_(std=1 / layer.rank, generator=layer.generator), b=b.zero_())


def orthogonal(layer: TargetLayer) -> InitialFactors:
    """A in one half of an orthogonal basis of the rank, B in the other: B A is zero to rounding, and neither is.

    Raises:
        AdapterError: the rank is odd.
    """
    rank, half = layer.rank, layer.rank // 2
    if rank % 2:
        raise AdapterError(f"{layer.path}: init orthogonal halves the rank, which must be even; it is {rank}")
    _drawn_and_dropped(layer)
    basis, _ = torch.linalg.qr(torch.randn(rank, rank, generator=layer.generator))
    a = torch.randn(layer.in_features, half, generator=layer.generator).mm(basis[0::2]).t() / 10
    b = torch.randn(half, layer.out_features, generator=layer.generator).t().mm(basis[1::2]) / 10
    return InitialFactors(a=a.contiguous(), b=b.contiguous())


def pissa(layer: TargetLayer) -> InitialFactors:
    """The largest singular values and vectors of the weight (Meng et al., 2024, arXiv:2404.02948)."""
    _drawn_and_dropped(layer)
    left, values, right = torch.linalg.svd(layer.weight(), full_matrices=False)
    return _principal(left[:, : layer.rank], values[: layer.rank], right[: layer.rank], layer.scale)


PASSES = 4
"""Power iterations of the randomised decomposition; each brings the subspace nearer to the true one."""
MORE = 8
"""Directions that it carries beyond the rank."""


def pissa_fast(layer: TargetLayer) -> InitialFactors:
    """The same by a randomised range finder (Halko, Martinsson & Tropp, 2011, arXiv:0909.4061, algorithm 4.4)."""
    _drawn_and_dropped(layer)
    weight = layer.weight()
    width = min(layer.rank + MORE, *weight.shape)
    basis, _ = torch.linalg.qr(weight @ torch.randn(layer.in_features, width, generator=layer.generator).to(weight))
    for _ in range(PASSES):
        turned, _ = torch.linalg.qr(weight.t() @ basis)
        basis, _ = torch.linalg.qr(weight @ turned)
    small, values, right = torch.linalg.svd(basis.t() @ weight, full_matrices=False)
    left = basis @ small[:, : layer.rank]
    return _principal(left, values[: layer.rank], right[: layer.rank], layer.scale)


def _principal(left: Tensor, values: Tensor, right: Tensor, scale: float) -> InitialFactors:
    root = (values / scale).sqrt()
    return InitialFactors(a=(root[:, None] * right).contiguous(), b=(left * root).contiguous(), subtracted=True)


def olora(layer: TargetLayer) -> InitialFactors:
    """The first columns of Q and rows of R with W = Q R (Büyükakyüz, 2024, arXiv:2406.01775)."""
    _drawn_and_dropped(layer)
    q, r = torch.linalg.qr(layer.weight())
    return InitialFactors(a=r[: layer.rank].contiguous(), b=q[:, : layer.rank].contiguous(), subtracted=True)


def loftq(layer: TargetLayer) -> InitialFactors:
    """The best update of this rank for what quantisation took away (Li et al., 2023, arXiv:2310.08659), one iteration:
    further ones would quantise another weight, and the adapter would fit no base but its own.

    The product is divided by the scale, which PEFT's is not: there it is right for alpha = rank only.

    Raises:
        AdapterError: the weight was not quantised here.
    """
    if layer.original is None:
        raise AdapterError(f"{layer.path}: init loftq makes up for quantisation, and this weight is not quantised")
    _drawn_and_dropped(layer)
    left, values, right = torch.linalg.svd(layer.original() - layer.weight(), full_matrices=False)
    best = _principal(left[:, : layer.rank], values[: layer.rank], right[: layer.rank], layer.scale)
    return InitialFactors(a=best.a, b=best.b)


def eva(layer: TargetLayer) -> InitialFactors:
    """A spans what the layer's inputs vary in most (Paischer et al., 2024, arXiv:2410.07170), B is zero.

    Raises:
        AdapterError: the directions were not measured.
    """
    if layer.directions is None:
        raise AdapterError(f"{layer.path}: init eva needs rows to measure the layer's inputs on")
    _drawn_and_dropped(layer)
    return InitialFactors(a=layer.directions.clone(), b=torch.zeros(layer.out_features, layer.rank))


INITS: dict[Init, Callable[[TargetLayer], InitialFactors]] = {
    Init.KAIMING: kaiming,
    Init.GAUSSIAN: gaussian,
    Init.ORTHOGONAL: orthogonal,
    Init.PISSA: pissa,
    Init.PISSA_FAST: pissa_fast,
    Init.OLORA: olora,
    Init.LOFTQ: loftq,
    Init.EVA: eva,
}
"""Every start by its name."""


def embedding(rank: int, vocab: int, dim: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A `[rank, vocab]` zero and B `[dim, rank]` normal, whatever start the linear layers have; PEFT's draws."""
    torch.randn(rank, vocab, generator=generator)
    b = torch.randn(dim, rank, generator=generator)
    return torch.zeros(rank, vocab), b.normal_(generator=generator)


def _drawn_and_dropped(layer: TargetLayer) -> tuple[Tensor, Tensor]:
    """A and B as torch starts two linear layers, which PEFT makes before it starts them anew."""
    a = torch.empty(layer.rank, layer.in_features)
    b = torch.empty(layer.out_features, layer.rank)
    for tensor in (a, b):
        nn.init.kaiming_uniform_(tensor, a=math.sqrt(5), generator=layer.generator)
    return a, b
