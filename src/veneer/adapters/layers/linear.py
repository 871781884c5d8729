"""LoRA over any base linear: y = x Wᵀ + s · (x Aᵀ) Bᵀ  (Hu et al., 2021, arXiv:2106.09685).

The layer uses its base only through `BaseLinear`, so that dense and quantised bases need no code here. Forward and
backward are written out. autograd would keep x once for the base and once for A, and would add the update as a tensor
of its own. Here only x and the small x Aᵀ are kept, and the base adds the update within its own product. A quantised W
is decoded again in backward and never kept.

A and B are float32 and are rounded to the dtype of x for the products; their gradients arrive in float32.

Some initialisations (PiSSA, OLoRA) give A and B a product that is not zero. The base is not changed for that. A second,
fixed pair A₀, B₀ subtracts the initial product for good, so that the model starts as its base, and the base may be
quantised. The saved pair [A; A₀], [B, −B₀] is a plain adapter of twice the rank for that base.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from veneer.adapters.files.names import FACTOR_A, FACTOR_B, FACTOR_B_BIAS
from veneer.adapters.layers.dropout import Dropout, DropsInputs
from veneer.adapters.layers.rounded import Rounded
from veneer.adapters.layers.together import Updated, together
from veneer.adapters.module import SavesTrained
from veneer.model.leaves import SharesInput
from veneer.model.recompute import DrawsMasks
from veneer.native.stored import HoldsStored, StoredLinear, StoredUpdate, stored_dense
from veneer.products import (
    BaseLinear,
    LowRank,
    by_kernels,
    factor_grad,
    linear,
    linear_input_grad,
    update_input_grad,
)


class _LoraProduct(torch.autograd.Function):
    """Base and update in one product. `adapted` is x after dropout, or x itself."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        adapted: Tensor,
        a: Tensor,
        b: Tensor,
        base: BaseLinear,
        scale: float,
        rounded: Rounded | None,
    ) -> Tensor:
        narrow_a, narrow_b = _narrow(a, b, rounded, x.dtype)
        down = linear(adapted, narrow_a)
        y = base.product(x, LowRank(down, narrow_b, scale))
        # Only the gradient of A needs this input. Where A is not trained, only the small product is kept.
        ctx.save_for_backward(adapted if ctx.needs_input_grad[2] else None, down, a, b)
        ctx.base, ctx.scale, ctx.one_input, ctx.rounded = base, scale, adapted is x, rounded
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        adapted, down, a, b = ctx.saved_tensors
        dy = grads[0]
        narrow_a, narrow_b = _narrow(a, b, ctx.rounded, dy.dtype)
        # The scale is applied later: unless it is a power of two, it would round the factors of three products once
        # more.
        d_down = linear_input_grad(dy, narrow_b)
        grad_a = None if adapted is None else factor_grad(d_down, adapted, ctx.scale).to(a.dtype)
        grad_b = factor_grad(dy, down, ctx.scale).to(b.dtype)
        grad_x = grad_adapted = None
        update = LowRank(d_down, narrow_a, ctx.scale)
        if ctx.needs_input_grad[0]:
            grad_x = ctx.base.input_gradient(dy, update if ctx.one_input else None)
        if ctx.needs_input_grad[1] and not ctx.one_input:
            grad_adapted = update_input_grad(update)
        return grad_x, grad_adapted, grad_a, grad_b, None, None, None


def _narrow(a: Tensor, b: Tensor, rounded: Rounded | None, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """A and B in `dtype`: rounded in advance, or rounded now."""
    if rounded is not None and rounded.stands_for(a, b, dtype):
        return rounded.a, rounded.b
    return a.to(dtype), b.to(dtype)


class LoraLinear(nn.Module, HoldsStored, SharesInput, DrawsMasks, DropsInputs):
    """A base linear with a LoRA update.

    Args:
        base: the frozen layer.
        a: initial A, `[rank, in_features]` float32.
        b: initial B, `[out_features, rank]` float32.
        scale: factor of the update, usually alpha / rank.
        dropout: dropout of the update's inputs.
        factor_bias: bias `[out_features]` float32 that is added to B's product before scaling (PEFT's `lora_bias`).
        subtracted: whether the initial product of A and B is subtracted for good.
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
        self._dropout = dropout or Dropout()
        self.enabled = True
        self.rounded: Rounded | None = None
        """A and B as they were rounded in advance; otherwise they are rounded at each product."""

    @property
    def rank(self) -> int:
        """Number of rows of A."""
        return self.lora_A.shape[0]

    @property
    def bias(self) -> Tensor | None:
        """Bias of the base."""
        return self.base.bias

    @property
    def dropout(self) -> Dropout:
        """See `DropsInputs`."""
        return self._dropout

    @property
    def masks(self) -> torch.Generator | None:
        """See `DrawsMasks`."""
        return self.dropout.generator if self.dropout.probability else None

    def forward(self, x: Tensor) -> Tensor:
        """Map `[*, in_features]` to `[*, out_features]`, in the dtype of `x`."""
        if not self.enabled:
            return self.base(x)
        if x.dim() > 2:
            return self.forward(x.flatten(0, -2)).reshape(*x.shape[:-1], -1)
        return self.from_inputs(x, self.dropout(x) if self.training else x)

    def from_inputs(self, x: Tensor, adapted: Tensor) -> Tensor:
        """See `DropsInputs`: the base's product with `x` plus the update's product with `adapted`."""
        a, b = self.pairs()
        own = (x, adapted, a, b, self.base, self.scale, self.rounded)
        y = cast(Tensor, _LoraProduct.apply(*own))
        return y if self.lora_B_bias is None else y + (self.scale * self.lora_B_bias).to(y.dtype)

    def with_others(self, others: Sequence[nn.Module], x: Tensor) -> tuple[Tensor, ...] | None:
        """See `SharesInput`: on a GPU, or by veneer's own kernels, if all are plain updates of one scale."""
        if x.dim() != 2 or not (x.is_cuda or by_kernels(x)):
            return None
        layers = [layer for layer in (self, *others) if type(layer) is LoraLinear and layer._plain]
        if len(layers) <= len(others) or len({layer.scale for layer in layers}) > 1:
            return None
        parts = []
        for layer in layers:
            a, b = _narrow(layer.lora_A, layer.lora_B, layer.rounded, x.dtype)
            parts.append(Updated(layer.base, a, b, layer.scale))
        return together(x, parts, [(layer.lora_A, layer.lora_B) for layer in layers])

    @property
    def _plain(self) -> bool:
        """Whether the layer is its base and one pair of trained factors, with nothing dropped."""
        dropped = self.training and self.dropout.probability > 0.0
        more = self.lora_B_bias is not None or self.subtracted_a is not None
        return self.enabled and not dropped and not more and self.lora_A.requires_grad and self.lora_B.requires_grad

    def pairs(self) -> tuple[Tensor, Tensor]:
        """A `[r, in]` and B `[out, r]` of the whole update, including the subtracted pair at the end."""
        if self.subtracted_a is None or self.subtracted_b is None:
            return self.lora_A, self.lora_B
        return torch.cat((self.lora_A, self.subtracted_a)), torch.cat((self.lora_B, -self.subtracted_b), 1)

    def stored(self) -> StoredLinear | None:
        """See `HoldsStored`."""
        base = self.base.stored() if isinstance(self.base, HoldsStored) else None
        if base is None or not self.enabled:
            return base
        a, b = (stored_dense(factor.float().contiguous()) for factor in self.pairs())
        if a is None or b is None or base.update is not None:
            return None
        bias = base.bias
        if self.lora_B_bias is not None:
            own = self.scale * self.lora_B_bias.detach().float()
            bias = own if bias is None else bias.float() + own
        return StoredLinear(weight=base.weight, bias=bias, update=StoredUpdate(down=a, up=b, scale=self.scale))

    def delta(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The update as a matrix s · B A, `[out_features, in_features]`, computed in `dtype`."""
        a, b = self.pairs()
        return (b.to(dtype) @ a.to(dtype)) * self.scale

    def added_to(self, weight: Tensor) -> Tensor:
        """`weight` `[out_features, in_features]` plus the update, in its dtype, without a matrix for the update."""
        a, b = self.pairs()
        return torch.addmm(weight, b.to(weight.dtype), a.to(weight.dtype), alpha=self.scale)

    def trained(self) -> dict[str, nn.Parameter]:
        """A and B, or only B (`factors: b`). See `AdapterModule.trained`."""
        named = {FACTOR_A: self.lora_A, FACTOR_B: self.lora_B, FACTOR_B_BIAS: self.lora_B_bias}
        return {name: tensor for name, tensor in named.items() if tensor is not None and tensor.requires_grad}

    def tensors(self) -> dict[str, Tensor]:
        """A and B of the whole update. See `AdapterModule.tensors`."""
        a, b = self.pairs()
        named = {FACTOR_A: a.detach(), FACTOR_B: b.detach()}
        return named if self.lora_B_bias is None else named | {FACTOR_B_BIAS: self.lora_B_bias.detach()}

    @torch.no_grad()
    def load(self, tensors: dict[str, Tensor]) -> None:
        """Copy in A and B, including the subtracted pair at the end. See `AdapterModule.load`."""
        a, b = tensors[FACTOR_A], tensors[FACTOR_B]
        self.lora_A.copy_(a[: self.rank])
        self.lora_B.copy_(b[:, : self.rank])
        if self.subtracted_a is not None and self.subtracted_b is not None:
            self.subtracted_a.copy_(a[self.rank :])
            self.subtracted_b.copy_(b[:, self.rank :].neg())
        if self.lora_B_bias is not None:
            self.lora_B_bias.copy_(tensors[FACTOR_B_BIAS])

    def merge_into(self, tensors: dict[str, Tensor]) -> None:
        """Add the update. A bias of B becomes a bias of the layer. See `AdapterModule.merge_into`."""
        tensors["weight"] = self.added_to(tensors["weight"]).detach()
        if self.lora_B_bias is not None:
            own = self.scale * self.lora_B_bias.detach().to(tensors["weight"].dtype)
            tensors["bias"] = tensors["bias"] + own if "bias" in tensors else own


class TrainedBias(nn.Module, HoldsStored, SavesTrained, DropsInputs):
    """A linear layer, adapted or not, whose bias is trained.

    Args:
        base: the layer, which has a bias.
        adapted: whether the layer has an update, which decides the name of the bias in PEFT's files.
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
        """Map `[tokens, in_features]` to `[tokens, out_features]`, in the dtype of `x`."""
        return self._with_bias(self.base(x))

    @property
    def dropout(self) -> Dropout:
        """See `DropsInputs`."""
        return self.base.dropout if isinstance(self.base, DropsInputs) else Dropout()

    def from_inputs(self, x: Tensor, adapted: Tensor) -> Tensor:
        """See `DropsInputs`."""
        return self._with_bias(
            self.base.from_inputs(x, adapted) if isinstance(self.base, DropsInputs) else self.base(x)
        )

    def _with_bias(self, y: Tensor) -> Tensor:
        """Outputs of the base with the trained bias instead of its own."""
        if not self.enabled:
            return y
        assert self.base.bias is not None
        return y + (self.trained_bias - self.base.bias.detach().float()).to(y.dtype)

    def stored(self) -> StoredLinear | None:
        """See `HoldsStored`."""
        base = self.base.stored() if isinstance(self.base, HoldsStored) else None
        if base is None or not self.enabled or base.bias is None or self.base.bias is None:
            return base if not self.enabled else None
        own = self.trained_bias.detach() - self.base.bias.detach().float()
        return replace(base, bias=base.bias.float() + own)

    def trained(self) -> dict[str, nn.Parameter]:
        """The bias, by its name in PEFT's files. See `AdapterModule`."""
        return {self._name: self.trained_bias}

    def merge_into(self, tensors: dict[str, Tensor]) -> None:
        """Replace the base's bias, but keep what an update has added to it. See `AdapterModule.merge_into`."""
        assert self.base.bias is not None
        wide = tensors["bias"].dtype
        tensors["bias"] = tensors["bias"] + (self.trained_bias.detach().to(wide) - self.base.bias.detach().to(wide))
