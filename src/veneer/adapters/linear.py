"""LoRA over any base linear: y = x Wᵀ + s · (x Aᵀ) Bᵀ  (Hu et al., 2021, arXiv:2106.09685).

The layer knows of its base only what `BaseLinear` promises, so that a dense, a quantised or a future base needs no
code here. Forward and backward are written out: autograd would keep x once for the base and once for A, and would
add the update as a tensor of its own; here x and the small x Aᵀ are kept, and the base adds the update within its own
product. A quantised W is decoded again in backward and never kept.

A and B are float32 and are rounded to the dtype of x for the products; their gradients arrive in float32.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from veneer.model.decoder import BaseLinear
from veneer.products import LowRank, inputs, outer, outputs


class _LoraProduct(torch.autograd.Function):
    """The two paths at once. `adapted` is x after dropout, or x itself."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, adapted: Tensor, a: Tensor, b: Tensor, base: BaseLinear, scale: float) -> Tensor:
        down = outputs(adapted, a.to(x.dtype))
        y = base.product(x, LowRank(down, b.to(x.dtype), scale))
        ctx.save_for_backward(adapted, down, a, b)
        ctx.base, ctx.scale, ctx.one_input = base, scale, adapted is x
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor, Tensor, None, None]:
        adapted, down, a, b = ctx.saved_tensors
        dy = grads[0]
        # The scale stays out of it: one that is no power of two would round the factors of three products once more.
        d_down = inputs(dy, b.to(dy.dtype))
        grad_a = outer(d_down, adapted, ctx.scale).to(a.dtype)
        grad_b = outer(dy, down, ctx.scale).to(b.dtype)
        grad_x = grad_adapted = None
        update = LowRank(d_down, a.to(dy.dtype), ctx.scale)
        if ctx.needs_input_grad[0]:
            grad_x = ctx.base.input_gradient(dy, update if ctx.one_input else None)
        if ctx.needs_input_grad[1] and not ctx.one_input:
            grad_adapted = torch.mm(update.left, update.right).mul_(ctx.scale)
        return grad_x, grad_adapted, grad_a, grad_b, None, None


class LoraLinear(nn.Module):
    """A base linear with a low-rank update beside it.

    Args:
        base: the frozen layer.
        a: `[rank, in_features]` float32.
        b: `[out_features, rank]` float32.
        scale: alpha / rank.
        dropout: probability of dropping an input of the update while training.
        generator: draws the dropout masks; needed where `dropout` is above 0.
    """

    def __init__(
        self,
        base: BaseLinear,
        a: Tensor,
        b: Tensor,
        *,
        scale: float,
        dropout: float = 0.0,
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        self.in_features, self.out_features = base.in_features, base.out_features
        self.base = base
        self.lora_A = nn.Parameter(a)
        self.lora_B = nn.Parameter(b)
        self.scale = scale
        self.dropout = dropout
        self.enabled = True
        self._generator = generator

    @property
    def rank(self) -> int:
        """Rows of A."""
        return self.lora_A.shape[0]

    def forward(self, x: Tensor) -> Tensor:
        """`[tokens, in_features]` to `[tokens, out_features]`, in the dtype of `x`."""
        if not self.enabled:
            return self.base(x)
        adapted = self._drop(x) if self.training and self.dropout > 0.0 else x
        return cast(Tensor, _LoraProduct.apply(x, adapted, self.lora_A, self.lora_B, self.base, self.scale))  # type: ignore[no-untyped-call]

    def _drop(self, x: Tensor) -> Tensor:
        keep = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        keep.bernoulli_(1.0 - self.dropout, generator=self._generator).div_(1.0 - self.dropout)
        return x * keep

    def delta(self) -> Tensor:
        """The update as a matrix, s · B A, `[out_features, in_features]` float32."""
        return (self.lora_B @ self.lora_A) * self.scale
