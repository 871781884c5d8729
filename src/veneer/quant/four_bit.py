"""QuantLinear: a frozen linear layer whose weight is kept in 4 bits.

Plain buffers hold the packed weight; attributes of the module define their meaning.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from veneer.config import QuantSection
from veneer.errors import ModelError
from veneer.native.stored import Format, NestedScales, StoredMatrix
from veneer.quant.codes import CodeBook, check_block, dequantize_4bit, packed_sizes, quantize_4bit, value_table
from veneer.quant.nested import NESTED_BLOCK, dequantize_nested, nested_scales, quantize_nested
from veneer.quant.packed import PackedLinear, expect


@dataclass(frozen=True, kw_only=True, slots=True)
class QuantConfig:
    """How weights are quantised.

    Raises:
        ConfigError: the block size is not allowed.
    """

    block: int = 64
    """The number of weights that share a scale, a power of two in 32..4096."""
    double_quant: bool = True
    """Whether the scales are kept in 8 bits: a weight then takes 4.13 bits instead of 4.5 at block 64."""
    codebook: CodeBook = CodeBook.NF4
    """The values of the 16 codes."""

    def __post_init__(self) -> None:
        check_block(self.block)

    @classmethod
    def of(cls, section: QuantSection) -> Self:
        """The quantisation that a run's settings ask for, for a 4-bit scheme."""
        return cls(block=section.block, double_quant=section.double_quant, codebook=CodeBook(section.scheme.value))


DEFAULTS = QuantConfig()


class QuantLinear(PackedLinear):
    """y = x Wᵀ + bias with W [out, in] decoded from 4 bits whenever it is needed, and frozen.

    Buffers: `codes` uint8 [ceil(n/2)]; then `absmax` float32 [ceil(n/block)], or, with double quantisation,
    `absmax_codes` uint8 [ceil(n/block)], `nested_absmax` float32 [ceil(blocks/256)] and `nested_offset` float32 [];
    and `bias` [out] or None.
    """

    exact: ClassVar[frozenset[str]] = frozenset({"absmax", "nested_absmax", "nested_offset"})
    codes: Tensor
    absmax: Tensor
    absmax_codes: Tensor
    nested_absmax: Tensor
    nested_offset: Tensor

    def __init__(
        self,
        shape: tuple[int, int],
        codes: Tensor,
        scales: Tensor | NestedScales,
        bias: Tensor | None = None,
        *,
        block: int,
        codebook: CodeBook,
    ) -> None:
        """Wrap a weight that is already packed; the tensors are kept, not copied.

        `shape` is (out, in).

        Raises:
            ModelError: a tensor does not fit the shape.
            ConfigError: the block size is not allowed.
        """
        super().__init__(shape, bias)
        self.config = QuantConfig(block=block, double_quant=isinstance(scales, NestedScales), codebook=codebook)
        code_bytes, blocks = packed_sizes(self.out_features * self.in_features, block)
        expect("codes", codes, torch.uint8, (code_bytes,))
        self.register_buffer("codes", codes)
        if isinstance(scales, NestedScales):
            expect("scale codes", scales.codes, torch.uint8, (blocks,))
            expect("nested scales", scales.factors, torch.float32, (-(-blocks // NESTED_BLOCK),))
            expect("nested offset", scales.offset, torch.float32, ())
            self.register_buffer("absmax_codes", scales.codes)
            self.register_buffer("nested_absmax", scales.factors)
            self.register_buffer("nested_offset", scales.offset)
        else:
            expect("scales", scales, torch.float32, (blocks,))
            self.register_buffer("absmax", scales)

    @classmethod
    def from_weight(cls, weight: Tensor, bias: Tensor | None = None, config: QuantConfig = DEFAULTS) -> Self:
        """Quantise `weight` [out, in] (float32, bfloat16 or float16); neither tensor is changed.

        Raises:
            ModelError: the weight cannot be quantised.
        """
        if weight.dim() != 2:
            raise ModelError(f"a linear layer's weight has two dimensions; got shape {list(weight.shape)}")
        codes, absmax = quantize_4bit(weight, config.block, codebook=config.codebook)
        scales = quantize_nested(absmax) if config.double_quant else absmax
        shape = (weight.shape[0], weight.shape[1])
        # Cloned, because the caller's bias may be a view into a whole checkpoint file.
        own_bias = None if bias is None else bias.detach().clone()
        return cls(shape, codes, scales, own_bias, block=config.block, codebook=config.codebook)

    def scales(self) -> Tensor:
        """The float32 scales [blocks], decoded if they are nested; that is cheap, so they are not kept."""
        stored = self.stored_scales()
        return dequantize_nested(stored) if isinstance(stored, NestedScales) else stored

    def stored_scales(self) -> Tensor | NestedScales:
        """The scales as they are kept; a kernel may decode nested ones itself."""
        if not self.config.double_quant:
            return self.absmax
        return nested_scales(self.absmax_codes, self.nested_absmax, self.nested_offset)

    def decode(self, dtype: torch.dtype, out: Tensor | None) -> Tensor:
        """Decode the weight, [out, in] in `dtype`, into `out` if given."""
        shape = (self.out_features, self.in_features)
        block, codebook = self.config.block, self.config.codebook
        return dequantize_4bit(self.codes, self.stored_scales(), shape, dtype, out, block=block, codebook=codebook)

    def weight_as_stored(self) -> StoredMatrix:
        """See `PackedLinear`."""
        return StoredMatrix(
            format=Format.FOUR_BIT,
            columns=self.out_features,
            depth=self.in_features,
            codes=self.codes,
            values=value_table(self.config.codebook, self.codes.device),
            scales=self.stored_scales(),
            block=self.config.block,
        )

    def extra_repr(self) -> str:
        """The line that `print(module)` shows."""
        return (
            f"{super().extra_repr()}, "
            f"{self.config.codebook.value}, block={self.config.block}, double_quant={self.config.double_quant}"
        )
