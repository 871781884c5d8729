"""Products with a frozen weight, and with the low-rank update that stands beside it, in one pass.

In bfloat16 on a processor with AVX-512 BF16 a kernel of our own makes them (native/products.c): the update's sums go on
in float32 where the base's begin, instead of being added to rounded values, and no kernel is compiled for every number
of rows. Elsewhere torch's products do the same one after the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from veneer.native.library import Kernels, kernels, usable

FEWEST_ROWS = 16
"""With fewer rows, laying out the weight for the kernel would take longer than the product."""


@dataclass(frozen=True, slots=True)
class LowRank:
    """scale · left · right, to be added to a product."""

    left: Tensor
    """`[tokens, rank]`."""
    right: Tensor
    """B `[out, rank]` for a layer's outputs, A `[rank, in]` for its input's gradient."""
    scale: float = 1.0


class Frozen(Protocol):
    """A linear layer whose weight does not learn."""

    def product(self, x: Tensor, update: LowRank | None = None) -> Tensor:
        """x Wᵀ (+ bias) (+ update), without gradients."""
        ...

    def input_gradient(self, grad: Tensor, update: LowRank | None = None) -> Tensor:
        """grad W (+ update)."""
        ...


def outputs(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    update: LowRank | None = None,
    *,
    out: Tensor | None = None,
) -> Tensor:
    """x Wᵀ + bias + scale · left Bᵀ, `[tokens, in]` to `[tokens, out]`; all in the dtype of x, the bias in any.

    `out`, if given, is filled and returned.
    """
    native = _native(x, weight, update)
    if native is not None:
        y = x.new_empty((x.shape[0], weight.shape[0])) if out is None else out
        factors, scale = _factors(update)
        wide_bias = None if bias is None else bias.float()
        native.product(x, weight, factors, wide_bias, scale, y, by_outputs=True)
        return y
    own_bias = None if bias is None else bias.to(x.dtype)
    if out is None:
        y = functional.linear(x, weight, own_bias)
    elif own_bias is None:
        y = torch.mm(x, weight.t(), out=out)
    else:
        y = torch.addmm(own_bias, x, weight.t(), out=out)
    return y if update is None else y.addmm_(update.left, update.right.t(), alpha=update.scale)


def inputs(grad: Tensor, weight: Tensor, update: LowRank | None = None) -> Tensor:
    """grad W + scale · left A, `[tokens, out]` to `[tokens, in]`; all in the dtype of grad."""
    native = _native(grad, weight, update)
    if native is not None:
        x = grad.new_empty((grad.shape[0], weight.shape[1]))
        factors, scale = _factors(update)
        native.product(grad, weight, factors, None, scale, x, by_outputs=False)
        return x
    x = grad @ weight
    return x if update is None else x.addmm_(update.left, update.right, alpha=update.scale)


def through(layer: Frozen, x: Tensor) -> Tensor:
    """The layer's outputs, with a gradient for x where one is asked for; nothing is kept for it."""
    if torch.is_grad_enabled() and x.requires_grad:
        result: Tensor = _Through.apply(x, layer)  # type: ignore[no-untyped-call]
        return result
    return layer.product(x)


class _Through(torch.autograd.Function):
    """Keeps the module alone: what a quantised layer multiplies by is decoded again in backward, and never kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: Frozen) -> Tensor:
        ctx.layer = layer
        return layer.product(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        layer: Frozen = ctx.layer
        return layer.input_gradient(grads[0]), None


def _native(x: Tensor, weight: Tensor, update: LowRank | None) -> Kernels | None:
    """The kernels, where they can make this product."""
    if x.dtype != torch.bfloat16 or x.dim() != 2 or x.shape[0] < FEWEST_ROWS or x.shape[1] % 2:
        return None
    factors = () if update is None else (update.left, update.right)
    if not usable(x, weight, *factors) or (update is not None and update.left.shape[1] % 2):
        return None
    found = kernels()
    return found if found is not None and found.has_products else None


def _factors(update: LowRank | None) -> tuple[tuple[Tensor, Tensor] | None, float]:
    return (None, 1.0) if update is None else ((update.left, update.right), update.scale)
