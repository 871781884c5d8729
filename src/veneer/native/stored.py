"""Weights as they are stored, for the kernels that multiply by them without decoding them first (rows.c)."""

from __future__ import annotations

import ctypes
from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import Enum, IntEnum

import torch
from torch import Tensor


class Format(IntEnum):
    """How a weight is stored; rows.h has the same numbers."""

    FLOAT32 = 0
    BFLOAT16 = 1
    FLOAT16 = 2
    INT8 = 3
    """LLM.int8's format: a code for each weight, a scale for each row."""
    FOUR_BIT = 4
    """The format with two codes in a byte and a scale for each block of the flattened weight."""
    Q4_0 = 5
    """GGUF's own formats, block after block as its files hold them (blocks.h)."""
    Q4_1 = 6
    Q8_0 = 7


class CodeOrder(Enum):
    """The order in which the weights of a row are decoded."""

    NATURAL = "natural"
    CODES = "codes"
    """That of two codes in a byte, which fall apart together."""
    BLOCKS = "blocks"
    """That of GGUF's 4-bit blocks."""


WIDENED_WEIGHTS = 64
"""How many weights the kernels widen at a time; rows.h has the same number."""

FORMATS = {torch.float32: Format.FLOAT32, torch.bfloat16: Format.BFLOAT16, torch.float16: Format.FLOAT16}
"""The formats of weights that are stored without codes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NestedScales:
    """The scales of a 4-bit weight, kept in 8 bits: values[codes] · factors + offset."""

    codes: Tensor
    """The codes, uint8 `[blocks]`."""
    values: Tensor
    """The values of the codes, float32 `[256]`."""
    factors: Tensor
    """The factors, float32, one for every `block` scales."""
    offset: Tensor
    """The offset, float32 `[]`."""
    block: int


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredMatrix:
    """A weight `[columns, depth]` as it is stored."""

    format: Format
    columns: int
    depth: int
    codes: Tensor
    """The codes, or the weight itself if its format has no codes."""
    values: Tensor | None = None
    """The values of 4-bit codes, float32 `[16]`."""
    scales: Tensor | NestedScales | None = None
    """The scales, float32: one for each row (int8) or for each block (4 bits)."""
    block: int = 64
    """How many weights a block has."""

    @property
    def order(self) -> CodeOrder:
        """The order in which the kernels may read this weight; the inputs are arranged in the same order."""
        if self.format is Format.FOUR_BIT and self.depth % WIDENED_WEIGHTS == 0:
            return CodeOrder.CODES
        return CodeOrder.BLOCKS if self.format in (Format.Q4_0, Format.Q4_1) else CodeOrder.NATURAL


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredUpdate:
    """An update that is added to a weight: scale · up · down."""

    down: StoredMatrix
    """A, `[rank, in]`."""
    up: StoredMatrix
    """B, `[out, rank]`."""
    scale: float


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredLinear:
    """A linear layer as it is stored."""

    weight: StoredMatrix
    bias: Tensor | None = None
    """The bias, `[out]`."""
    update: StoredUpdate | None = None
    gain: Tensor | None = None
    """What the product and its update are multiplied by, before the bias is added, `[out]` (DoRA)."""


class HoldsStored(ABC):
    """A linear layer that gives access to its stored weight."""

    @abstractmethod
    def stored(self) -> StoredLinear | None:
        """The layer's tensors, or None if the kernels cannot read them."""


class MatrixStruct(ctypes.Structure):
    """The struct `Matrix` of rows.h."""

    _fields_ = (
        ("format", ctypes.c_int32),
        ("block", ctypes.c_int32),
        ("nested", ctypes.c_int32),
        ("columns", ctypes.c_int32),
        ("depth", ctypes.c_int64),
        ("codes", ctypes.c_void_p),
        ("values", ctypes.c_void_p),
        ("scales", ctypes.c_void_p),
        ("scale_codes", ctypes.c_void_p),
        ("scale_values", ctypes.c_void_p),
        ("scale_factors", ctypes.c_void_p),
        ("scale_offset", ctypes.c_float),
    )


def stored_dense(weight: Tensor) -> StoredMatrix | None:
    """Describe a weight `[columns, depth]` that is stored without codes; None if the kernels do not read it."""
    weight = weight.detach()
    if weight.dtype not in FORMATS or weight.device.type != "cpu" or not weight.is_contiguous():
        return None
    return StoredMatrix(format=FORMATS[weight.dtype], columns=weight.shape[0], depth=weight.shape[1], codes=weight)


def matrix_struct(stored: StoredMatrix) -> MatrixStruct:
    """Make the struct that the kernels read. It has addresses of the tensors of `stored`, which must outlive it."""
    found = MatrixStruct(
        format=stored.format,
        block=stored.block,
        nested=1,
        columns=stored.columns,
        depth=stored.depth,
        codes=stored.codes.data_ptr(),
        values=None if stored.values is None else stored.values.data_ptr(),
    )
    if isinstance(stored.scales, NestedScales):
        nested = stored.scales
        found.nested, found.scale_offset = nested.block, float(nested.offset)
        found.scale_codes, found.scale_values = nested.codes.data_ptr(), nested.values.data_ptr()
        found.scale_factors = nested.factors.data_ptr()
    elif stored.scales is not None:
        found.scales = stored.scales.data_ptr()
    return found
