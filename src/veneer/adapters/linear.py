"""LoRA over any base linear: y = x Wᵀ + s · (x Aᵀ) Bᵀ  (Hu et al., 2021, arXiv:2106.09685).

The layer knows of its base only what `BaseLinear` promises, so that a dense, a quantised or a future base needs no
code here. Forward and backward are written out: autograd would keep x once for the base and once for A, and would
add the update as a tensor of its own; here x and the small x Aᵀ are kept, and the base adds the update within its own
product. A quantised W is decoded again in backward and never kept.

A and B are float32 and are rounded to the dtype of x for the products; their gradients arrive in float32.

Some starts (PiSSA, OLoRA) give A and B values whose product is not zero. The base is not changed for that: the product
that they start with is subtracted for good, as a second pair A₀, B₀, so that the model starts as its base, the base may
be quantised, and what is saved, the pair [A; A₀], [B, −B₀], is a plain adapter of twice the rank for the same base.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from veneer.adapters.module import copy_in
from veneer.model.decoder import BaseLinear
from veneer.products import LowRank, inputs, outer, outputs


class _LoraProduct(torch.autograd.Function):
    """The two paths at once. `adapted` is x after dropout, or x itself."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, adapted: Tensor, a: Tensor, b: Tensor, base: BaseLinear, scale: float) -> Tensor:
        down = outputs(adapted, a.to(x.dtype))
        y = base.product(x, LowRank(down, b.to(x.dtype), scale))
        # A's gradient alone needs its input; where A is not trained only the small product is kept.
        ctx.save_for_backward(adapted if ctx.needs_input_grad[2] else None, down, a, b)
        ctx.base, ctx.scale, ctx.one_input = base, scale, adapted is x
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        adapted, down, a, b = ctx.saved_tensors
        dy = grads[0]
        # The scale stays out of it: one that is no power of two would round the factors of three products once more.
        d_down = inputs(dy, b.to(dy.dtype))
        grad_a = None if adapted is None else outer(d_down, adapted, ctx.scale).to(a.dtype)
        grad_b = outer(dy, down, ctx.scale).to(b.dtype)
        grad_x = grad_adapted = None
        update = LowRank(d_down, a.to(dy.dtype), ctx.scale)
        if ctx.needs_input_grad[0]:
            grad_x = ctx.base.input_gradient(dy, update if ctx.one_input else None)
        if ctx.needs_input_grad[1] and not ctx.one_input:
            grad_adapted = torch.mm(update.left, update.right).mul_(ctx.scale)
        return grad_x, grad_adapted, grad_a, grad_b, None, None


@dataclass(frozen=True, kw_only=True, slots=True)
class Dropout:
    """Drops inputs of the update while training."""

    probability: float = 0.0
    generator: torch.Generator | None = None
    """Draws the masks; needed where `probability` is above 0."""

    def __call__(self, x: Tensor) -> Tensor:
        """x with elements dropped and the rest scaled up; x itself where nothing is dropped."""
        if self.probability == 0.0:
            return x
        keep = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        keep.bernoulli_(1.0 - self.probability, generator=self.generator).div_(1.0 - self.probability)
        return x * keep


class LoraLinear(nn.Module):
    """A base linear with a low-rank update beside it.

    Args:
        base: the frozen layer.
        a: `[rank, in_features]` float32.
        b: `[out_features, rank]` float32.
        scale: alpha / rank.
        dropout: of the update's inputs.
        factor_bias: `[out_features]` float32, added to B's product before it is scaled (PEFT's `lora_bias`).
        subtracted: whether the product that A and B start with is taken away again.
    """

    subtracted_a: Tensor | None
    subtracted_b: Tensor | None

    def __init__(
        self,
        base: BaseLinear,
        a: Tensor,
        b: Tensor,
        *,
        scale: float,
        dropout: Dropout | None = None,
        factor_bias: Tensor | None = None,
        subtracted: bool = False,
    ):
        super().__init__()
        self.in_features, self.out_features = base.in_features, base.out_features
        self.base = base
        self.lora_A = nn.Parameter(a)
        self.lora_B = nn.Parameter(b)
        self.lora_B_bias = None if factor_bias is None else nn.Parameter(factor_bias)
        self.register_buffer("subtracted_a", a.detach().clone() if subtracted else None)
        self.register_buffer("subtracted_b", b.detach().clone() if subtracted else None)
        self.scale = scale
        self.dropout = dropout or Dropout()
        self.enabled = True

    @property
    def rank(self) -> int:
        """Rows of A."""
        return self.lora_A.shape[0]

    @property
    def bias(self) -> Tensor | None:
        """The base's."""
        return self.base.bias

    def forward(self, x: Tensor) -> Tensor:
        """`[tokens, in_features]` to `[tokens, out_features]`, in the dtype of `x`, whatever dimensions tokens have."""
        if not self.enabled:
            return self.base(x)
        if x.dim() > 2:
            return self.forward(x.flatten(0, -2)).reshape(*x.shape[:-1], -1)
        return self.from_inputs(x, self.dropout(x) if self.training else x)

    def from_inputs(self, x: Tensor, adapted: Tensor) -> Tensor:
        """The base's product with `x`, plus the update's with `adapted`."""
        a, b = self.pairs()
        y = cast(Tensor, _LoraProduct.apply(x, adapted, a, b, self.base, self.scale))  # type: ignore[no-untyped-call]
        return y if self.lora_B_bias is None else y + (self.scale * self.lora_B_bias).to(y.dtype)

    def pairs(self) -> tuple[Tensor, Tensor]:
        """A `[r, in]` and B `[out, r]` of the whole update, the pair that is subtracted included."""
        if self.subtracted_a is None or self.subtracted_b is None:
            return self.lora_A, self.lora_B
        return torch.cat((self.lora_A, self.subtracted_a)), torch.cat((self.lora_B, -self.subtracted_b), 1)

    def delta(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The update as a matrix, s · B A, `[out_features, in_features]` computed in `dtype`."""
        a, b = self.pairs()
        return (b.to(dtype) @ a.to(dtype)) * self.scale

    def added_to(self, weight: Tensor) -> Tensor:
        """`weight` `[out_features, in_features]` with the update, in its dtype, without a matrix for the update."""
        a, b = self.pairs()
        return torch.addmm(weight, b.to(weight.dtype), a.to(weight.dtype), alpha=self.scale)

    def trained(self) -> dict[str, nn.Parameter]:
        """A and B, or B alone; see `AdapterModule`."""
        named = {"lora_A.weight": self.lora_A, "lora_B.weight": self.lora_B, "lora_B.bias": self.lora_B_bias}
        return {name: tensor for name, tensor in named.items() if tensor is not None and tensor.requires_grad}

    def tensors(self) -> dict[str, Tensor]:
        """A and B of the whole update; see `AdapterModule`."""
        a, b = self.pairs()
        named = {"lora_A.weight": a.detach(), "lora_B.weight": b.detach()}
        return named if self.lora_B_bias is None else named | {"lora_B.bias": self.lora_B_bias.detach()}

    @torch.no_grad()
    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take A and B, and the pair that is subtracted behind them; see `AdapterModule`."""
        a, b = tensors["lora_A.weight"], tensors["lora_B.weight"]
        self.lora_A.copy_(a[: self.rank])
        self.lora_B.copy_(b[:, : self.rank])
        if self.subtracted_a is not None and self.subtracted_b is not None:
            self.subtracted_a.copy_(a[self.rank :])
            self.subtracted_b.copy_(b[:, self.rank :].neg())
        if self.lora_B_bias is not None:
            self.lora_B_bias.copy_(tensors["lora_B.bias"])

    def fold(self, tensors: dict[str, Tensor]) -> None:
        """Add the update; a bias of B's makes a bias where there was none. See `AdapterModule`."""
        tensors["weight"] = self.added_to(tensors["weight"]).detach()
        if self.lora_B_bias is not None:
            own = self.scale * self.lora_B_bias.detach().to(tensors["weight"].dtype)
            tensors["bias"] = tensors["bias"] + own if "bias" in tensors else own


class TrainedBias(nn.Module):
    """A linear layer, adapted or not, whose bias is trained.

    Args:
        base: the layer; it has a bias.
        adapted: whether the layer carries an update, which decides the bias's name in PEFT's files.
    """

    def __init__(self, base: BaseLinear | LoraLinear, *, adapted: bool):
        super().__init__()
        self.in_features, self.out_features = base.in_features, base.out_features
        assert base.bias is not None
        self.base = base
        self.trained_bias = nn.Parameter(base.bias.detach().float().clone())
        self.enabled = True
        self._name = "base_layer.bias" if adapted else "bias"

    def forward(self, x: Tensor) -> Tensor:
        """`[tokens, in_features]` to `[tokens, out_features]`, in the dtype of `x`."""
        y = self.base(x)
        if not self.enabled:
            return y
        assert self.base.bias is not None
        return y + (self.trained_bias - self.base.bias.detach().float()).to(y.dtype)

    def trained(self) -> dict[str, nn.Parameter]:
        """The bias; see `AdapterModule`."""
        return {self._name: self.trained_bias}

    def tensors(self) -> dict[str, Tensor]:
        """The bias; see `AdapterModule`."""
        return {self._name: self.trained_bias.detach()}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take the bias; see `AdapterModule`."""
        copy_in(self.tensors(), tensors)

    def fold(self, tensors: dict[str, Tensor]) -> None:
        """Replace the base's bias, leaving what an update has added to it. See `AdapterModule`."""
        assert self.base.bias is not None
        wide = tensors["bias"].dtype
        tensors["bias"] = tensors["bias"] + (self.trained_bias.detach().to(wide) - self.base.bias.detach().to(wide))
