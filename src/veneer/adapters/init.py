"""Initialisation of A and B: one function for each value of `veneer.enums.Init`.

Random numbers are drawn in float32 on the CPU, so that a seed gives the same adapter on every device. They are PEFT's
draws in PEFT's order, so that PEFT makes the same adapter from the seed. (On a bfloat16 base PEFT rounds its draws to
bfloat16; here they stay float32.)
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
    """The layer that gets A and B, and what they may be initialised from."""

    path: str
    in_features: int
    out_features: int
    rank: int
    scale: float
    generator: torch.Generator
    weight: Callable[[], Tensor]
    """A function that returns the weight in use (dequantised), `[out, in]` float32."""
    original: Callable[[], Tensor] | None = None
    """A function that returns the weight before quantisation, `[out, in]` float32; None if it is not known."""
    directions: Tensor | None = None
    """Directions of most variance of the layer's inputs (EVA), `[rank, in]` float32 with orthonormal rows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class InitialFactors:
    """Initial A `[rank, in]` and B `[out, rank]`, float32."""

    a: Tensor
    b: Tensor
    subtracted: bool = False
    """Whether the initial product B A is subtracted for good, so that the model starts as its base."""


def kaiming(layer: TargetLayer) -> InitialFactors:
    """A uniform in ±1/√in_features and B zero, so that the update starts as exactly zero.

    The draws are PEFT's: A, a B that is dropped, A again.
    """
    a, b = _drawn_and_dropped(layer)
    nn.init.kaiming_uniform_(a, a=math.sqrt(5), generator=layer.generator)
    return InitialFactors(a=a, b=b.zero_())


def undrawn(layer: TargetLayer) -> InitialFactors:
    """Uninitialised A and B, for a caller that loads both."""
    return InitialFactors(a=torch.empty(layer.rank, layer.in_features), b=torch.empty(layer.out_features, layer.rank))


def gaussian(layer: TargetLayer) -> InitialFactors:
    """A normal with standard deviation 1 / rank, and B zero."""
    a, b = _drawn_and_dropped(layer)
    return InitialFactors(a=a.normal_(std=1 / layer.rank, generator=layer.generator), b=b.zero_())


def orthogonal(layer: TargetLayer) -> InitialFactors:
    """A in one half of a random orthogonal basis, B in the other half: B A is zero up to rounding, but neither factor
    is.

    Raises:
        AdapterError: the rank is odd.
    """
    rank, half = layer.rank, layer.rank // 2
    if rank % 2:
        raise AdapterError(f"{layer.path}: init orthogonal needs an even rank, since it halves it; the rank is {rank}")
    _drawn_and_dropped(layer)
    basis, _ = torch.linalg.qr(torch.randn(rank, rank, generator=layer.generator))
    a = torch.randn(layer.in_features, half, generator=layer.generator).mm(basis[0::2]).t() / 10
    b = torch.randn(half, layer.out_features, generator=layer.generator).t().mm(basis[1::2]) / 10
    return InitialFactors(a=a.contiguous(), b=b.contiguous())


def pissa(layer: TargetLayer) -> InitialFactors:
    """PiSSA: the largest singular values and vectors of the weight (Meng et al., 2024, arXiv:2404.02948)."""
    _drawn_and_dropped(layer)
    left, values, right = torch.linalg.svd(layer.weight(), full_matrices=False)
    return _principal(left[:, : layer.rank], values[: layer.rank], right[: layer.rank], layer.scale)


POWER_ITERATIONS = 4
"""Number of power iterations of the randomised decomposition. Each brings the subspace nearer to the true one."""
OVERSAMPLING = 8
"""Number of directions that the randomised decomposition uses beyond the rank."""


def pissa_fast(layer: TargetLayer) -> InitialFactors:
    """PiSSA by a randomised range finder (Halko, Martinsson & Tropp, 2011, arXiv:0909.4061, algorithm 4.4)."""
    _drawn_and_dropped(layer)
    weight = layer.weight()
    width = min(layer.rank + OVERSAMPLING, *weight.shape)
    basis, _ = torch.linalg.qr(weight @ torch.randn(layer.in_features, width, generator=layer.generator).to(weight))
    for _ in range(POWER_ITERATIONS):
        turned, _ = torch.linalg.qr(weight.t() @ basis)
        basis, _ = torch.linalg.qr(weight @ turned)
    small, values, right = torch.linalg.svd(basis.t() @ weight, full_matrices=False)
    left = basis @ small[:, : layer.rank]
    return _principal(left, values[: layer.rank], right[: layer.rank], layer.scale)


def _principal(left: Tensor, values: Tensor, right: Tensor, scale: float) -> InitialFactors:
    root = (values / scale).sqrt()
    return InitialFactors(a=(root[:, None] * right).contiguous(), b=(left * root).contiguous(), subtracted=True)


def olora(layer: TargetLayer) -> InitialFactors:
    """OLoRA: the first columns of Q and rows of R with W = Q R (Büyükakyüz, 2024, arXiv:2406.01775)."""
    _drawn_and_dropped(layer)
    q, r = torch.linalg.qr(layer.weight())
    return InitialFactors(a=r[: layer.rank].contiguous(), b=q[:, : layer.rank].contiguous(), subtracted=True)


def loftq(layer: TargetLayer) -> InitialFactors:
    """LoftQ: the best update of this rank for the error of quantisation (Li et al., 2023, arXiv:2310.08659).

    There is one iteration. More would quantise another weight, and the adapter would fit only that base. The product is
    divided by the scale; PEFT does not do this, and is right only for alpha = rank.

    Raises:
        AdapterError: the weight was not quantised here.
    """
    if layer.original is None:
        raise AdapterError(
            f"{layer.path}: init loftq corrects the error of quantisation, but this weight is not quantised"
        )
    _drawn_and_dropped(layer)
    left, values, right = torch.linalg.svd(layer.original() - layer.weight(), full_matrices=False)
    best = _principal(left[:, : layer.rank], values[: layer.rank], right[: layer.rank], layer.scale)
    return InitialFactors(a=best.a, b=best.b)


def eva(layer: TargetLayer) -> InitialFactors:
    """EVA: A spans the directions of most variance of the layer's inputs (Paischer et al., 2024, arXiv:2410.07170).

    B is zero.

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
"""The function of each initialisation."""


def embedding(rank: int, vocab: int, dim: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Initial factors of an embedding by PEFT's draws: A `[rank, vocab]` zero and B `[dim, rank]` normal.

    They do not depend on the initialisation of linear layers.
    """
    torch.randn(rank, vocab, generator=generator)
    b = torch.randn(dim, rank, generator=generator)
    return torch.zeros(rank, vocab), b.normal_(generator=generator)


def _drawn_and_dropped(layer: TargetLayer) -> tuple[Tensor, Tensor]:
    """A and B as torch initialises two linear layers. PEFT does so before it initialises them again."""
    a = torch.empty(layer.rank, layer.in_features)
    b = torch.empty(layer.out_features, layer.rank)
    for tensor in (a, b):
        nn.init.kaiming_uniform_(tensor, a=math.sqrt(5), generator=layer.generator)
    return a, b
