"""PackedLinear: the base of the frozen linear layers that decode their weight whenever it is needed.

It meets the contract of a base linear (`forward`, `product`, `input_gradient`, `dequantize`, `in_features`,
`out_features`, `bias`) and has no parameters. A format adds its buffers and the way to decode them.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from veneer.errors import ModelError
from veneer.gpu.few_rows import MOST_ROWS, packed_product
from veneer.native.stored import HoldsStored, StoredLinear, StoredMatrix
from veneer.products import LowRank, apply_frozen, stored_linear, stored_linear_input_grad


class PackedLinear(nn.Module, HoldsStored):
    """y = x Wᵀ + bias with W [out, in] decoded to the dtype of x, and frozen."""

    exact: ClassVar[frozenset[str]] = frozenset()
    """The buffers that stay float32 under `.to(dtype)` and the like: rounding them would change the weight."""
    bias: Tensor | None

    def __init__(self, shape: tuple[int, int], bias: Tensor | None) -> None:
        """Make a layer of `shape` (out, in).

        Raises:
            ModelError: the bias does not fit it.
        """
        super().__init__()
        self.out_features, self.in_features = shape
        if bias is not None and bias.shape != (self.out_features,):
            raise ModelError(f"bias has shape {list(bias.shape)}; it must have shape [{self.out_features}]")
        self.register_buffer("bias", None if bias is None else bias.detach())
        self._decoded: Tensor | None = None

    @abstractmethod
    def decode(self, dtype: torch.dtype, out: Tensor | None) -> Tensor:
        """Decode the weight, [out, in] in `dtype`, rounded once; into the contiguous buffer `out` if given."""

    @abstractmethod
    def weight_as_stored(self) -> StoredMatrix:
        """The packed weight and everything that is needed to decode it, on the device of its codes."""

    def stored(self) -> StoredLinear | None:
        """See `HoldsStored`; the kernels for the CPU read no other device's memory."""
        weight = self.weight_as_stored()
        return StoredLinear(weight=weight, bias=self.bias) if weight.codes.device.type == "cpu" else None

    @property
    def nbytes(self) -> int:
        """The size of all buffers in bytes: codes, scales and bias."""
        return sum(buffer.nbytes for buffer in self.buffers())

    def dequantize(self, dtype: torch.dtype, out: Tensor | None = None) -> Tensor:
        """Decode the weight, [out, in] in `dtype`, rounded once; into the contiguous buffer `out` if given.

        Reusing one buffer pays off: from about 32 MB on, the page faults of a new one cost more than decoding.
        """
        if self._decoded is not None and self._decoded.dtype == dtype and out is None:
            return self._decoded
        return self.decode(dtype, out)

    def product(self, x: Tensor, update: LowRank | None = None) -> Tensor:
        """x Wᵀ (+ bias) (+ update), [*, in] to [*, out], with weight and bias decoded to x's dtype; no gradients.

        A card multiplies a few rows by the codes themselves (`veneer.gpu.few_rows`).
        """
        if x.is_cuda and len(x) <= MOST_ROWS:
            added = None if update is None else (update.left, update.right, update.scale)
            y = packed_product(x, self.weight_as_stored(), self.bias, added)
            if y is not None:
                return y
        return stored_linear(x, self, update)

    def input_gradient(self, grad: Tensor, update: LowRank | None = None, onto: Tensor | None = None) -> Tensor:
        """grad W (+ update) (+ onto), [*, out] to [*, in], with the weight decoded once more."""
        return stored_linear_input_grad(grad, self, update, onto)

    def keep_decoded(self, dtype: torch.dtype) -> None:
        """Keep the decoded weight until `forget_decoded`; see `decoded_weights`."""
        self._decoded = self.dequantize(dtype)

    @property
    def keeps_decoded(self) -> bool:
        """Whether the decoded weight is kept."""
        return self._decoded is not None

    def forget_decoded(self) -> None:
        """Forget the decoded weight."""
        self._decoded = None

    def forward(self, x: Tensor) -> Tensor:
        """Map x [*, in] to [*, out], with the weight and bias decoded to x's dtype.

        Backward gives dx only. Between the two, nothing is kept: the weight is decoded a second time.
        """
        return apply_frozen(self, x)

    def extra_repr(self) -> str:
        """The line that `print(module)` shows."""
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # Module.to(dtype), .half(), .bfloat16() and .double() all come through here and cast every floating buffer.
        exact = {id(self._buffers[name]) for name in self.exact if name in self._buffers}

        def keep_scales(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            if id(tensor) in exact and moved.dtype != tensor.dtype:
                return tensor.to(moved.device)
            return moved

        super()._apply(keep_scales, recurse)
        return self


@contextmanager
def decoded_weights(modules: Iterable[nn.Module], dtype: torch.dtype, limit: int) -> Iterator[None]:
    """Let every quantised layer keep its decoded weight within the block, if together they take at most `limit` bytes.

    The values are the same. Generation multiplies a few rows at a time, so decoding would cost as much as the products.
    Training decodes at each use, unless a GPU has memory to spare: there a weight is multiplied by thousands of rows,
    and saving memory matters more.
    """
    # Layers that already keep theirs continue to do so after the block.
    layers = [module for module in modules if isinstance(module, PackedLinear) and not module.keeps_decoded]
    size = sum(layer.in_features * layer.out_features for layer in layers) * dtype.itemsize
    if size > limit:
        yield
        return
    try:
        for layer in layers:
            layer.keep_decoded(dtype)
        yield
    finally:
        for layer in layers:
            layer.forget_decoded()


def forget_decoded(modules: Iterable[nn.Module]) -> bool:
    """Let quantised layers drop the decoded weights that `decoded_weights` let them keep; false if none is kept."""
    layers = [module for module in modules if isinstance(module, PackedLinear) and module.keeps_decoded]
    for layer in layers:
        layer.forget_decoded()
    return bool(layers)


def result_buffer(out: Tensor | None, shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """The buffer that a weight is decoded into: `out`, or a new one without it.

    Raises:
        ModelError: `out` is not a contiguous buffer of this shape and dtype on this device.
    """
    if out is None:
        return torch.empty(tuple(shape), dtype=dtype, device=device)
    if out.shape != torch.Size(shape) or out.dtype != dtype or out.device != device or not out.is_contiguous():
        raise ModelError(
            f"cannot decode into a {out.dtype} buffer of shape {list(out.shape)} on {out.device}, "
            f"contiguous={out.is_contiguous()}; it must be contiguous {dtype} of shape {list(shape)} on {device}"
        )
    return out


def expect(name: str, tensor: Tensor, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    """Raise ModelError unless a part of a quantised weight has this dtype and shape."""
    if tensor.dtype != dtype or tuple(tensor.shape) != shape:
        raise ModelError(
            f"quantised weight: {name} are {tensor.dtype} of shape {list(tensor.shape)}; "
            f"they must be {dtype} of shape {list(shape)}"
        )
