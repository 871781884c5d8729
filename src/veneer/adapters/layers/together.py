"""LoRA over several linear layers that read one input, in one function: queries, keys and values; gate and up.

    y_i = x W_iᵀ + s_i (x A_iᵀ) B_iᵀ

The A of all layers are one matrix, so that x Aᵀ is one product, and so is the gradient of all A. The input's gradient
is summed within its products, and not by autograd afterwards. The numbers are those of `veneer.adapters.layers.linear`
(on a GPU up to the order of sums).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from veneer.adapters.layers.rounded import stacked
from veneer.products import BaseLinear, LowRank, factor_grad, linear, linear_input_grad


@dataclass(frozen=True, slots=True)
class Updated:
    """A layer and its update."""

    base: BaseLinear
    a: Tensor
    """A `[rank, in]` in the dtype of the input; B `[out, rank]` likewise."""
    b: Tensor
    scale: float


class _Together(torch.autograd.Function):
    """All outputs of layers with updates, on a GPU. Keeps the input and the small x Aᵀ."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layers: Sequence[Updated], *factors: Tensor) -> tuple[Tensor, ...]:
        down = torch.mm(x, stacked([layer.a for layer in layers]).t())
        ranks = [len(layer.a) for layer in layers]
        found = [
            layer.base.product(x, LowRank(own, layer.b, layer.scale))
            for layer, own in zip(layers, torch.split(down, ranks, dim=1), strict=True)
        ]
        ctx.save_for_backward(x, down)
        ctx.layers, ctx.ranks = layers, ranks
        return tuple(found)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        x, down = ctx.saved_tensors
        layers: Sequence[Updated] = ctx.layers
        d_down = torch.empty_like(down)
        owns = torch.split(d_down, ctx.ranks, dim=1)
        for grad, layer, own in zip(grads, layers, owns, strict=True):
            torch.mm(grad, layer.b, out=own)
        grads_b = [
            factor_grad(grad, part, layer.scale)
            for grad, part, layer in zip(grads, torch.split(down, ctx.ranks, dim=1), layers, strict=True)
        ]
        scale = layers[0].scale
        grads_a = torch.split(factor_grad(d_down, x, scale), ctx.ranks)
        grad_x = None
        if ctx.needs_input_grad[0]:
            update = LowRank(d_down, stacked([layer.a for layer in layers]), scale)
            grad_x = layers[0].base.input_gradient(grads[0], update)
            for grad, layer in zip(grads[1:], layers[1:], strict=True):
                grad_x.addmm_(grad, layer.base.dequantize(grad.dtype))
        return grad_x, None, *(part for pair in zip(grads_a, grads_b, strict=True) for part in pair)


class _TogetherByKernels(torch.autograd.Function):
    """All outputs of layers with updates, by veneer's own kernels, each of whose sums is independent.

    Every number is that of the single layers, to the bit: like autograd, this goes through the gradients from the last
    to the first, and adds rounded numbers.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, layers: Sequence[Updated], *factors: Tensor) -> tuple[Tensor, ...]:
        down = linear(x, stacked([layer.a for layer in layers]))
        downs = [part.contiguous() for part in torch.split(down, [len(layer.a) for layer in layers], dim=1)]
        ctx.save_for_backward(x, *downs)
        ctx.layers = layers
        return tuple(
            layer.base.product(x, LowRank(own, layer.b, layer.scale)) for layer, own in zip(layers, downs, strict=True)
        )

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        x, *downs = ctx.saved_tensors
        layers: Sequence[Updated] = ctx.layers
        d_downs = [linear_input_grad(grad, layer.b) for grad, layer in zip(grads, layers, strict=True)]
        grads_b = [factor_grad(grad, down, layer.scale) for grad, down, layer in zip(grads, downs, layers, strict=True)]
        stack = factor_grad(torch.cat(d_downs, dim=1), x, layers[0].scale)
        grads_a = torch.split(stack, [len(layer.a) for layer in layers])
        grad_x = None
        if ctx.needs_input_grad[0]:
            for grad, layer, d_down in reversed([*zip(grads, layers, d_downs, strict=True)]):
                grad_x = layer.base.input_gradient(grad, LowRank(d_down, layer.a, layer.scale), grad_x)
        return grad_x, None, *(part for pair in zip(grads_a, grads_b, strict=True) for part in pair)


def together(x: Tensor, layers: Sequence[Updated], factors: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, ...]:
    """The outputs of layers with updates, `[tokens, out]` each.

    Args:
        x: the layers' input, `[tokens, in]`.
        layers: layers with equal scales.
        factors: the trained A and B of each, float32, which get the gradients.
    """
    flat = [factor for pair in factors for factor in pair]
    function = _Together if x.is_cuda else _TogetherByKernels
    found: tuple[Tensor, ...] = function.apply(x, layers, *flat)
    return found
