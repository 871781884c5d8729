"""Low-rank factors as the compiled step reads them: the adapters of a step, with any ranks and scales."""

from __future__ import annotations

import ctypes
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from veneer.native.stored import FORMATS

FACTOR_DTYPES = (torch.float32, torch.bfloat16)
"""The dtypes that factors may be stored in."""

IN_TILES = 16
"""The format of factors for tiles: FACTOR_TILES of adapt.h."""


class FactorStruct(ctypes.Structure):
    """The struct `Factor` of adapt.h."""

    _fields_ = (
        ("down", ctypes.c_void_p),
        ("up", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("gain", ctypes.c_void_p),
        ("format", ctypes.c_int32),
        ("rank", ctypes.c_int32),
        ("scale", ctypes.c_float),
    )


class SegmentStruct(ctypes.Structure):
    """The struct `Segment` of adapt.h."""

    _fields_ = (("start", ctypes.c_int32), ("stop", ctypes.c_int32), ("factors", ctypes.POINTER(FactorStruct)))


def in_pairs(factor: Tensor) -> Tensor:
    """A factor `[n, m]` as `[⌈n / 2⌉, m, 2]`: a word of memory holds a weight of an even row and one of the next.

    An odd last row has zeros as its partner. Two shifts widen a word, while separate halves would first have to be
    moved; and AMX's tiles read pairs of bfloat16 in this form.
    """
    if len(factor) % 2:
        factor = torch.cat((factor, factor.new_zeros(1, factor.shape[1])))
    return factor.reshape(-1, 2, factor.shape[1]).transpose(1, 2)


def fits_tiles(rank: int, columns: int, depth: int) -> bool:
    """Whether factors of these sizes consist of whole tiles."""
    return rank % 16 == 0 and columns % 16 == 0 and depth % 32 == 0


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerFactors:
    """The update of one linear layer, whose own output is y: gain · (y + scale · (x Aᵀ) Bᵀ) + bias."""

    down: Tensor
    """A, contiguous, float32 or bfloat16 `[rank, in]`; or for tiles, Aᵀ in bfloat16 in pairs of inputs (`in_pairs`)."""
    up: Tensor
    """Bᵀ with the dtype of A, contiguous: float32 `[rank, out]`, bfloat16 in pairs of ranks (`in_pairs`)."""
    scale: float
    bias: Tensor | None = None
    """The bias, float32 `[out]`, contiguous."""
    gain: Tensor | None = None
    """The gain of DoRA, float32 `[out]`, contiguous; None is 1."""

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """A, Bᵀ, and bias and gain if there are any."""
        return (self.down, self.up, *(one for one in (self.bias, self.gain) if one is not None))

    @property
    def in_tiles(self) -> bool:
        """Whether AMX's tiles multiply these factors, which a step in other products cannot read."""
        return self.down.dim() == 3

    def struct(self, columns: int, depth: int) -> FactorStruct:
        """Make the struct for a layer of these sizes.

        Raises:
            ValueError: the factors have other sizes.
        """
        rank = self.down.shape[1 if self.in_tiles else 0]
        down = (depth // 2, rank, 2) if self.in_tiles else (rank, depth)
        up = (rank, columns) if self.down.dtype == torch.float32 else (-(-rank // 2), columns, 2)
        fits = self.down.shape == down and self.up.shape == up
        if self.in_tiles:
            fits = fits and fits_tiles(rank, columns, depth) and self.down.dtype == torch.bfloat16
        by_column = [one for one in (self.bias, self.gain) if one is not None]
        fits = fits and all(one.shape == (columns,) and one.dtype == torch.float32 for one in by_column)
        readable = all(tensor.is_contiguous() and tensor.device.type == "cpu" for tensor in self.tensors)
        if not fits or not readable or self.down.dtype not in FACTOR_DTYPES or self.up.dtype != self.down.dtype:
            # The library reads memory by these sizes, so a wrong one must not reach it.
            given = ", ".join(f"{tensor.dtype} {list(tensor.shape)}" for tensor in self.tensors)
            raise ValueError(f"factors {given} for a layer [{columns}, {depth}]")
        return FactorStruct(
            down=self.down.data_ptr(),
            up=self.up.data_ptr(),
            bias=None if self.bias is None else self.bias.data_ptr(),
            gain=None if self.gain is None else self.gain.data_ptr(),
            format=IN_TILES if self.in_tiles else FORMATS[self.down.dtype],
            rank=rank,
            scale=self.scale,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Site:
    """A linear layer of a program that adapters may update."""

    path: str
    columns: int
    depth: int


@dataclass(frozen=True, kw_only=True, slots=True)
class FactorTable:
    """All updates of an adapter as the library reads them: a struct for each layer of a program, and the memory that it
    refers to.

    The tensors of single layers are released. An adapter has some hundred of them, and a full garbage collection of
    Python visits every object: for a thousand adapters this would take longer than a step.
    """

    structs: ctypes.Array[FactorStruct]
    layout: bytes
    """A digest of the layers for which it was made (`layout_of`)."""
    in_tiles: bool
    """Whether any factors are for tiles."""
    nbytes: int
    """Bytes of all tensors."""
    memory: tuple[Tensor, ...]
    """A tensor of each piece of memory that the structs point into."""


def factor_table(layers: Mapping[str, LayerFactors], sites: Sequence[Site]) -> FactorTable:
    """Lay the updates of an adapter out for a program.

    Args:
        layers: the updates, by the paths of the layers.
        sites: all layers of the program that adapters may update, in its order.

    Raises:
        ValueError: the factors of a layer have another size, or the program does not have the layer.
    """
    unknown = sorted(layers.keys() - {site.path for site in sites})
    if unknown:
        raise ValueError(f"factors of layers that the program does not adapt: {unknown}")
    structs = [
        layers[site.path].struct(site.columns, site.depth) if site.path in layers else FactorStruct() for site in sites
    ]
    tensors = [tensor for layer in layers.values() for tensor in layer.tensors]
    return FactorTable(
        # An array that is made of structs keeps an object of each.
        structs=(FactorStruct * len(structs)).from_buffer_copy(b"".join(structs)),
        layout=layout_of(sites),
        in_tiles=any(layer.in_tiles for layer in layers.values()),
        nbytes=sum(tensor.nbytes for tensor in tensors),
        memory=tuple({tensor.untyped_storage().data_ptr(): tensor for tensor in tensors}.values()),
    )


def layout_of(sites: Sequence[Site]) -> bytes:
    """A digest of a program's layers, their sizes and their order.

    An adapter that was prepared for one program fits every program with the same digest.
    """
    text = "\n".join(f"{site.path} {site.columns} {site.depth}" for site in sites)
    return hashlib.blake2b(text.encode(), digest_size=16).digest()
