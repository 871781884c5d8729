"""Products with a frozen weight and the low-rank update beside it, in one pass.

In bfloat16 on a processor with AVX-512 BF16 or AMX, veneer's own kernels compute them (native/products.c,
product_tiles.c, outer.c). Base and update then share one sum in float32, instead of being added after both were
rounded, and no kernel is compiled for every number of rows. In float32 the kernels work on every instruction set, with
the weight of a layer as it is stored (native/frozen.c); there a row's bits do not depend on the other rows. They also
compute bfloat16 where torch would do it number by number (`veneer.widening`). Elsewhere torch computes the products
one after the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from veneer.native.arguments import kernels_accept
from veneer.native.functions import Kernels
from veneer.native.library import kernels
from veneer.native.stored import StoredLinear, StoredMatrix, stored_dense
from veneer.padding import pad_to_multiple
from veneer.widening import product_in_parts, sum_in_parts, widened

FEWEST_ROWS = 16
"""With fewer rows, rearranging the weight for the kernel would take longer than the product."""
MOST_OUTPUTS = 16_384
"""Largest number of a weight's outputs for which the kernel computes the gradient of the inputs in float32. A head has
more: each thread would rearrange all of it for its own rows, and torch's product takes four fifths of the time."""


@dataclass(frozen=True, slots=True)
class LowRank:
    """scale · left · right, to be added to a product."""

    left: Tensor
    """`[tokens, rank]`."""
    right: Tensor
    """B `[out, rank]` for a layer's outputs, A `[rank, in]` for its input's gradient."""
    scale: float = 1.0

    def add_to_outputs(self, y: Tensor) -> Tensor:
        """y, with scale · left Bᵀ added in place."""
        return y.addmm_(self.left, self.right.t(), alpha=self.scale)

    def add_to_inputs(self, x: Tensor) -> Tensor:
        """x, with scale · left A added in place."""
        return x.addmm_(self.left, self.right, alpha=self.scale)


@dataclass(frozen=True, slots=True)
class Scores:
    """How the head's products become scores: softcap(scale · h Wᵀ)."""

    scale: float = 1.0
    softcap: float | None = None

    @property
    def plain(self) -> bool:
        """Whether the products are the scores."""
        return self.scale == 1.0 and self.softcap is None


PLAIN_SCORES = Scores()
"""The scores of most families: the products as they are."""


class FrozenLinear(Protocol):
    """A linear layer whose weight is not trained: what an expert's layer must be."""

    in_features: int
    out_features: int

    @property
    def bias(self) -> Tensor | None:
        """The bias `[out_features]`, if there is one."""
        ...

    def product(self, x: Tensor, update: LowRank | None = None) -> Tensor:
        """x Wᵀ (+ bias) (+ update), `[tokens, in]` to `[tokens, out]`, without gradients."""
        ...

    def input_gradient(self, grad: Tensor, update: LowRank | None = None, onto: Tensor | None = None) -> Tensor:
        """grad W (+ update), `[tokens, out]` to `[tokens, in]`: the gradient of the input. If a contiguous tensor
        `onto` is given, the gradient is added to it, and it is returned: see `linear_input_grad`."""
        ...

    def __call__(self, x: Tensor) -> Tensor:
        """x Wᵀ (+ bias), `[tokens, in]` to `[tokens, out]`."""
        ...


class BaseLinear(FrozenLinear, Protocol):
    """A linear layer that an adapter can be put on (contract 1 in docs/design.md)."""

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        """The weight `[out_features, in_features]` in `dtype`."""
        ...


class StoredBaseLinear(BaseLinear, Protocol):
    """A base linear that gives access to its weight as it is stored (`veneer.native.stored.HoldsStored`)."""

    def stored(self) -> StoredLinear | None:
        """The layer's tensors; None if the kernels cannot read them."""
        ...


def linear(
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
        wide_bias = None if bias is None else bias.float().contiguous()
        native.product(x, weight, factors, wide_bias, scale, y, by_outputs=True)
        return y
    frozen = _float_kernels(x, update, weight)
    stored = None if frozen is None else stored_dense(weight)
    if frozen is not None and stored is not None:
        y = x.new_empty((x.shape[0], weight.shape[0])) if out is None else out
        return _float_product(frozen, x, stored, update, bias, y, by_outputs=True)
    own_bias = None if bias is None else bias.to(x.dtype)
    if x.is_cuda and update is not None and out is None:
        return _onto_update(x, weight.t(), update.left, update.right.t(), update.scale, own_bias)
    if out is None:
        y = functional.linear(x, weight, own_bias)
    elif own_bias is None:
        y = torch.mm(x, weight.t(), out=out)
    else:
        y = torch.addmm(own_bias, x, weight.t(), out=out)
    return y if update is None else update.add_to_outputs(y)


def linear_input_grad(
    grad: Tensor, weight: Tensor, update: LowRank | None = None, onto: Tensor | None = None
) -> Tensor:
    """grad W + scale · left A, `[tokens, out]` to `[tokens, in]`; all in the dtype of grad.

    If a contiguous tensor `onto` is given, the result is rounded and then added to it, and it is returned. The bits are
    those that autograd computes for an input of several layers, without a separate pass.
    """
    native = _native(grad, weight, update)
    if native is not None:
        x = grad.new_empty((grad.shape[0], weight.shape[1])) if onto is None else onto
        factors, scale = _factors(update)
        native.product(grad, weight, factors, None, scale, x, by_outputs=False, add=onto is not None)
        return x
    torch_is_faster = len(weight) > MOST_OUTPUTS and grad.dtype is torch.float32
    frozen = None if torch_is_faster else _float_kernels(grad, update, weight)
    stored = None if frozen is None else stored_dense(weight)
    if frozen is not None and stored is not None:
        x = grad.new_empty((grad.shape[0], weight.shape[1]))
        _float_product(frozen, grad, stored, update, None, x, by_outputs=False)
    elif grad.is_cuda and update is not None:
        x = _onto_update(grad, weight, update.left, update.right, update.scale, None)
    else:
        x = grad @ weight
        x = x if update is None else update.add_to_inputs(x)
    return x if onto is None else onto.add_(x)


def _onto_update(x: Tensor, weight: Tensor, left: Tensor, right: Tensor, scale: float, bias: Tensor | None) -> Tensor:
    """x · weight + scale · left · right + bias, for a GPU: the small product first, and the large one added to it.

    cuBLAS reads what it adds to while it computes. A product of thousands of columns hides this reading; in a product
    of sixteen columns it would take most of the time. And the large product is not rounded before the sum.
    """
    if bias is None:
        return torch.mm(left, right).addmm_(x, weight, beta=scale)
    return torch.addmm(bias, left, right, alpha=scale).addmm_(x, weight)


def stored_linear(x: Tensor, layer: StoredBaseLinear, update: LowRank | None = None) -> Tensor:
    """x Wᵀ + bias + update, `[tokens, in]` to `[tokens, out]`, in the dtype of x.

    In float32 veneer's own kernel decodes the stored weight while it computes (native/frozen.c), so that no decoded
    copy is made and a row's bits do not depend on the other rows.
    """
    frozen = _float_kernels(x, update) if x.dtype is torch.float32 else None
    stored = None if frozen is None else layer.stored()
    if frozen is None or stored is None:
        return linear(x, layer.dequantize(x.dtype), layer.bias, update)
    y = x.new_empty((x.shape[0], stored.weight.columns))
    return _float_product(frozen, x, stored.weight, update, layer.bias, y, by_outputs=True)


def stored_linear_input_grad(
    grad: Tensor, layer: StoredBaseLinear, update: LowRank | None = None, onto: Tensor | None = None
) -> Tensor:
    """grad W + update, `[tokens, out]` to `[tokens, in]`, in the dtype of grad.

    See `stored_linear` and `linear_input_grad`.
    """
    frozen = _float_kernels(grad, update) if grad.dtype is torch.float32 else None
    stored = None if frozen is None else layer.stored()
    if frozen is None or stored is None:
        return linear_input_grad(grad, layer.dequantize(grad.dtype), update, onto)
    x = grad.new_empty((grad.shape[0], stored.weight.depth))
    _float_product(frozen, grad, stored.weight, update, None, x, by_outputs=False)
    # Within the product, whose sum is computed in parts, the result would differ.
    return x if onto is None else onto.add_(x)


def factor_grad(left: Tensor, right: Tensor, scale: float) -> Tensor:
    """scale · leftᵀ right, `[tokens, m]` and `[tokens, n]` to `[m, n]` in float32 or wider: a factor's gradient.

    The kernel keeps the sums in float32, and so does cuBLAS on CUDA. Elsewhere torch's product rounds them once to the
    inputs' dtype, except for float16, in which they might overflow, and for bfloat16 that is widened.
    """
    wide_dtype = torch.promote_types(left.dtype, torch.float32)
    native = _kernels(left, right)
    if native is None and left.is_cuda and left.dtype != wide_dtype:
        # cuBLAS splits a sum over thousands of tokens among blocks; with 16-bit results the parts would be rounded too.
        # It scales what it writes, and does not read the old content if that is multiplied by 0.
        room = torch.empty((left.shape[1], right.shape[1]), dtype=wide_dtype, device=left.device)
        return torch.addmm(room, left.t(), right, out_dtype=wide_dtype, beta=0, alpha=scale)
    if native is None and widened(left):
        return sum_in_parts(left, right).mul_(scale)
    if native is None:
        if left.dtype is torch.float16:
            left, right = left.to(wide_dtype), right.to(wide_dtype)
        return torch.mm(left.t(), right).to(wide_dtype).mul_(scale)
    out = torch.empty((left.shape[1], right.shape[1]), dtype=wide_dtype)
    turned = right.shape[1] < left.shape[1]
    native.outer(*((right, left) if turned else (left, right)), scale, out, turned=turned)
    return out


def update_input_grad(update: LowRank) -> Tensor:
    """scale · left A, `[tokens, in]`: the gradient of an update's own input."""
    narrow = linear_input_grad(update.left, update.right) if widened(update.left) else update.left.mm(update.right)
    return narrow.mul_(update.scale)


def pad_rows(x: Tensor, *, few: bool = True) -> Tensor:
    """x `[rows, width]`, followed by rows of zeros: up to the smallest number that veneer's own kernel takes, or,
    without the kernel, up to the next of few numbers.

    This is for rows whose number varies, such as those of an expert: torch's product in bfloat16 compiles and keeps a
    kernel for every number of rows (`veneer.padding`). With recomputation the forward pass runs without gradients, and
    meets as many numbers as a training step.

    Args:
        x: the rows.
        few: whether less than `FEWEST_ROWS` rows are padded too. For decoding, which has few rows, this would not pay.
    """
    if x.dtype != torch.bfloat16 or x.device.type != "cpu" or (len(x) < FEWEST_ROWS and not few):
        return x
    more = (max(FEWEST_ROWS, len(x)) if compiled() else pad_to_multiple(len(x))) - len(x)
    return functional.pad(x, (0, 0, 0, more)) if more else x


def compiled() -> bool:
    """Whether veneer's own kernel computes bfloat16 products with frozen weights on this machine's processor."""
    found = kernels()
    return found is not None and found.has_products


def by_kernels(x: Tensor) -> bool:
    """Whether veneer's own kernels compute the products of x with any frozen weight in bfloat16."""
    return _native(x, x, None) is not None


def reads_stored(dtype: torch.dtype, device: str) -> bool:
    """Whether products in `dtype` read the weight of a frozen layer as it is stored (`stored_linear`). A base whose
    files hold 16 bits per weight then needs no more in memory. `device` is the kind of device: `cpu` or `cuda`."""
    return dtype is torch.float32 and device == "cpu" and kernels() is not None


def reads_blocks(device: str) -> bool:
    """Whether weights in GGUF's own formats are held in memory in these formats. `device` is the kind of device."""
    return device == "cpu" and kernels() is not None


def apply_frozen(layer: FrozenLinear, x: Tensor) -> Tensor:
    """The layer's outputs, with a gradient for x if it requires one; no tensor is kept for backward."""
    if x.dim() > 2:
        rows = apply_frozen(layer, x.flatten(0, -2))
        return rows.reshape(*x.shape[:-1], rows.shape[-1])
    if torch.is_grad_enabled() and x.requires_grad:
        result: Tensor = _ApplyFrozen.apply(x, layer)
        return result
    return layer.product(x)


class _ApplyFrozen(torch.autograd.Function):
    """Keeps only the module: the weight of a quantised layer is decoded again in backward, and never kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: FrozenLinear) -> Tensor:
        ctx.layer = layer
        return layer.product(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        layer: FrozenLinear = ctx.layer
        return layer.input_gradient(grads[0]), None


def apply_trained(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x Wᵀ (+ bias), `[…, in]` to `[…, out]` in the dtype of x, with gradients for a weight that is trained."""
    if not widened(x):
        return functional.linear(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype))
    rows: Tensor = _ApplyTrained.apply(x.flatten(0, -2), weight, bias)
    return rows.reshape(*x.shape[:-1], rows.shape[-1])


class _ApplyTrained(torch.autograd.Function):
    """Products that are widened, and the gradients of all that they read."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        narrow = weight.to(x.dtype)
        ctx.save_for_backward(x, narrow)
        ctx.dtypes = weight.dtype, None if bias is None else bias.dtype
        return linear(x, narrow, bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        grad, needed, (weight_dtype, bias_dtype) = grads[0].contiguous(), ctx.needs_input_grad, ctx.dtypes
        return (
            linear_input_grad(grad, weight) if needed[0] else None,
            factor_grad(grad, x, 1.0).to(weight_dtype) if needed[1] else None,
            grad.sum(0, dtype=torch.float32).to(bias_dtype) if needed[2] else None,
        )


def _native(x: Tensor, weight: Tensor, update: LowRank | None) -> Kernels | None:
    """The kernels, if they can compute this product."""
    if update is None:
        return None if x.shape[-1] % 2 else _kernels(x, weight)
    if x.shape[-1] % 2 or update.left.shape[-1] % 2:
        return None  # the kernel reads numbers in pairs
    return _kernels(x, weight, update.left, update.right)


def _kernels(x: Tensor, *others: Tensor) -> Kernels | None:
    """The kernels, if they accept these tensors."""
    if x.dtype != torch.bfloat16 or x.dim() != 2 or x.shape[0] < FEWEST_ROWS or not kernels_accept(x, *others):
        return None
    return kernels() if compiled() else None


def _factors(update: LowRank | None) -> tuple[tuple[Tensor, Tensor] | None, float]:
    return (None, 1.0) if update is None else ((update.left, update.right), update.scale)


def _float_kernels(x: Tensor, update: LowRank | None, *others: Tensor) -> Kernels | None:
    """The kernels, if they can compute a product of x in float32: x has that dtype, or is widened."""
    factors = () if update is None else (update.left, update.right)
    if x.dim() != 2 or not (x.dtype is torch.float32 or widened(x)) or not kernels_accept(x, *factors, *others):
        return None
    return kernels()


def _float_product(
    native: Kernels,
    x: Tensor,
    weight: StoredMatrix,
    update: LowRank | None,
    bias: Tensor | None,
    y: Tensor,
    *,
    by_outputs: bool,
) -> Tensor:
    """y, filled with the product by a stored weight, which is computed in float32."""
    wide_bias = None if bias is None else bias.detach().float().contiguous()
    factors, scale = None, 1.0
    if update is not None:
        right = stored_dense(update.right.float())
        assert right is not None
        factors, scale = (update.left, right), update.scale
    product = native.frozen_product if y.dtype is torch.float32 else partial(product_in_parts, native)
    product(x, weight, factors, wide_bias, scale, y, by_outputs=by_outputs)
    return y
