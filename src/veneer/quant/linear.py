"""QuantLinear: a frozen linear layer whose weight is kept in 4 bits.

It meets the contract of a base linear (`forward`, `dequantize`, `in_features`, `out_features`) and has no parameters.
The packed weight is plain buffers; what they mean stands in attributes of the module.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

from veneer.errors import ConfigError, ModelError
from veneer.products import LowRank, inputs, outputs, through
from veneer.quant.codes import (
    NESTED_BLOCK,
    CodeBook,
    NestedScales,
    check_block,
    dequantize_4bit,
    dequantize_nested,
    packed_sizes,
    quantize_4bit,
    quantize_nested,
)

_SCALES = ("absmax", "nested_absmax", "nested_offset")


@dataclass(frozen=True, kw_only=True, slots=True)
class QuantConfig:
    """How weights are quantised.

    block: weights per scale, a power of two in 32..4096. double_quant: keep the scales in 8 bits, which takes 4.13
    instead of 4.5 bits per weight at block 64. Raises ConfigError for a value that is not allowed.
    """

    block: int = 64
    double_quant: bool = True
    codebook: CodeBook = CodeBook.NF4

    def __post_init__(self) -> None:
        check_block(self.block)
        if not isinstance(self.codebook, CodeBook):
            known = ", ".join(book.value for book in CodeBook)
            raise ConfigError(f"code book is {self.codebook!r}; it must be a CodeBook: {known}")


class QuantLinear(nn.Module):
    """y = x Wᵀ + bias with W [out, in] decoded from 4 bits whenever it is needed, and frozen.

    Buffers: `codes` uint8 [ceil(n/2)]; then `absmax` float32 [ceil(n/block)], or, with double quantisation,
    `absmax_codes` uint8 [ceil(n/block)], `nested_absmax` float32 [ceil(blocks/256)] and `nested_offset` float32 [];
    and `bias` [out] or None. The scales stay float32 under `.to(dtype)` and its relatives: rounding them would change
    the weight.
    """

    codes: Tensor
    absmax: Tensor
    absmax_codes: Tensor
    nested_absmax: Tensor
    nested_offset: Tensor
    bias: Tensor | None

    def __init__(
        self,
        shape: tuple[int, int],
        codes: Tensor,
        scales: Tensor | NestedScales,
        bias: Tensor | None = None,
        *,
        block: int = 64,
        codebook: CodeBook = CodeBook.NF4,
    ) -> None:
        """Wrap a weight that is already packed; the tensors are kept, not copied.

        shape: (out, in). Raises ModelError where a tensor does not fit it, ConfigError for an illegal block.
        """
        super().__init__()
        self.config = QuantConfig(block=block, double_quant=isinstance(scales, NestedScales), codebook=codebook)
        self.out_features, self.in_features = shape
        code_bytes, blocks = packed_sizes(self.out_features * self.in_features, block)
        _expect("codes", codes, torch.uint8, (code_bytes,))
        self.register_buffer("codes", codes)
        if isinstance(scales, NestedScales):
            _expect("scale codes", scales.codes, torch.uint8, (blocks,))
            _expect("nested scales", scales.absmax, torch.float32, (-(-blocks // NESTED_BLOCK),))
            _expect("nested offset", scales.offset, torch.float32, ())
            self.register_buffer("absmax_codes", scales.codes)
            self.register_buffer("nested_absmax", scales.absmax)
            self.register_buffer("nested_offset", scales.offset)
        else:
            _expect("scales", scales, torch.float32, (blocks,))
            self.register_buffer("absmax", scales)
        if bias is not None and bias.shape != (self.out_features,):
            raise ModelError(f"bias has shape {list(bias.shape)}; it must have shape [{self.out_features}]")
        self.register_buffer("bias", None if bias is None else bias.detach())
        self._decoded: Tensor | None = None

    @classmethod
    def from_weight(
        cls,
        weight: Tensor,
        bias: Tensor | None = None,
        *,
        block: int = 64,
        double_quant: bool = True,
        codebook: CodeBook = CodeBook.NF4,
    ) -> Self:
        """Quantise `weight` [out, in] (float32, bfloat16 or float16); neither tensor is changed.

        Raises ModelError for a weight that cannot be quantised, ConfigError for an illegal block.
        """
        if weight.dim() != 2:
            raise ModelError(f"a linear layer's weight has two dimensions; got shape {list(weight.shape)}")
        codes, absmax = quantize_4bit(weight, block, codebook=codebook)
        scales = quantize_nested(absmax) if double_quant else absmax
        shape = (weight.shape[0], weight.shape[1])
        # Cloned, because the caller's bias may be a view into a whole checkpoint file.
        own_bias = None if bias is None else bias.detach().clone()
        return cls(shape, codes, scales, own_bias, block=block, codebook=codebook)

    @property
    def nbytes(self) -> int:
        """Bytes of all buffers: codes, scales and bias."""
        return sum(buffer.nbytes for buffer in self.buffers())

    def scales(self) -> Tensor:
        """The float32 scales [blocks], decoded if they are nested; 1/block of the weight's decode, so never kept."""
        stored = self._stored_scales()
        return dequantize_nested(stored) if isinstance(stored, NestedScales) else stored

    def _stored_scales(self) -> Tensor | NestedScales:
        """The scales as they are kept; a kernel may decode nested ones on its way."""
        if not self.config.double_quant:
            return self.absmax
        return NestedScales(self.absmax_codes, self.nested_absmax, self.nested_offset)

    def dequantize(self, dtype: torch.dtype, out: Tensor | None = None) -> Tensor:
        """Decode the weight, [out, in] in `dtype`, rounded once; into the contiguous buffer `out` if given.

        A buffer that is used again saves the page faults of a fresh one, which cost more than the decode from about
        32 MB on.
        """
        if self._decoded is not None and self._decoded.dtype == dtype and out is None:
            return self._decoded
        shape = (self.out_features, self.in_features)
        block, codebook = self.config.block, self.config.codebook
        return dequantize_4bit(self.codes, self._stored_scales(), shape, dtype, out, block=block, codebook=codebook)

    def product(self, x: Tensor, update: LowRank | None = None) -> Tensor:
        """x Wᵀ (+ bias) (+ update), [*, in] to [*, out], with weight and bias decoded to x's dtype; no gradients."""
        return outputs(x, self.dequantize(x.dtype), self.bias, update)

    def input_gradient(self, grad: Tensor, update: LowRank | None = None) -> Tensor:
        """grad W (+ update), [*, out] to [*, in], with the weight decoded once more."""
        return inputs(grad, self.dequantize(grad.dtype), update)

    def hold(self, dtype: torch.dtype) -> None:
        """Keep the decoded weight until `release`; see `decoded_weights`."""
        self._decoded = self.dequantize(dtype)

    def release(self) -> None:
        """Forget the decoded weight."""
        self._decoded = None

    def forward(self, x: Tensor) -> Tensor:
        """Map x [*, in] to [*, out], with the weight and bias decoded to x's dtype.

        Backward gives dx only. Between the two, nothing is kept: the weight is decoded a second time.
        """
        return through(self, x)

    def extra_repr(self) -> str:
        """The line that `print(module)` shows."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}, "
            f"{self.config.codebook.value}, block={self.config.block}, double_quant={self.config.double_quant}"
        )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # Module.to(dtype), .half(), .bfloat16() and .double() all come through here and cast every floating buffer.
        exact = {id(self._buffers[name]) for name in _SCALES if name in self._buffers}

        def keep_scales(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            if id(tensor) in exact and moved.dtype != tensor.dtype:
                return tensor.to(moved.device)
            return moved

        super()._apply(keep_scales, recurse)  # type: ignore[no-untyped-call]
        return self


@contextmanager
def decoded_weights(model: nn.Module, dtype: torch.dtype, limit: int) -> Iterator[None]:
    """Within the block every quantised layer keeps its decoded weight, if all of them take at most `limit` bytes.

    Generation multiplies a few rows at a time, so decoding would cost as much as the products; the values are the
    same. Training decodes at each use: there a weight meets thousands of rows, and memory is the point.
    """
    layers = [module for module in model.modules() if isinstance(module, QuantLinear)]
    size = sum(layer.in_features * layer.out_features for layer in layers) * dtype.itemsize
    if size > limit:
        yield
        return
    try:
        for layer in layers:
            layer.hold(dtype)
        yield
    finally:
        for layer in layers:
            layer.release()


def _expect(name: str, tensor: Tensor, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    if tensor.dtype != dtype or tuple(tensor.shape) != shape:
        raise ModelError(
            f"quantised weight: {name} are {tensor.dtype} of shape {list(tensor.shape)}; "
            f"they must be {dtype} of shape {list(shape)}"
        )
