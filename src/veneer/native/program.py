"""A step of a decoder as a list of operations, which the compiled library executes in one call (step.c)."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum, IntFlag

import torch
from torch import Tensor

from veneer.native.factors import FactorTable, SegmentStruct, Site, layout_of
from veneer.native.functions import KernelProducts, Kernels
from veneer.native.stored import CodeOrder, MatrixStruct, StoredLinear, StoredMatrix, matrix_struct


class _Kind(IntEnum):
    NORM = 0
    LINEAR = 1
    ROTATE = 2
    ATTEND = 3
    GATE = 4
    ADD = 5
    ADAPT_DOWN = 6
    ADAPT_UP = 7
    GAIN = 8


class NormKind(IntFlag):
    """What a norm does; step.c has the same bits."""

    PLAIN = 0
    CENTRED = 1
    """The mean is subtracted first."""
    BY_HEAD = 2
    """Each head has a weight of its own."""


class Gate(IntEnum):
    """The function of the gate."""

    SILU = 0
    GELU_TANH = 1


class Pairs(IntEnum):
    """Which numbers of a head are turned together."""

    HALVES = 0
    NEIGHBOURS = 1


class _PlaceStruct(ctypes.Structure):
    _fields_ = (("offset", ctypes.c_int64), ("stride", ctypes.c_int64))


class _LinearStruct(ctypes.Structure):
    _fields_ = (
        ("weight", MatrixStruct),
        ("bias", ctypes.c_void_p),
        ("to", _PlaceStruct),
        ("scale", ctypes.c_float),
        ("add", ctypes.c_int32),
    )


class _OpStruct(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int32) for name in ("kind", "variant", "heads", "kv_heads", "dim", "number")),
        *((name, ctypes.c_int32) for name in ("window", "linears", "group", "unused")),
        ("scale", ctypes.c_float),
        ("other", ctypes.c_float),
        *((name, _PlaceStruct) for name in ("source", "beside", "third", "to")),
        ("weight", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("products", ctypes.POINTER(_LinearStruct)),
    )


@dataclass(frozen=True, slots=True)
class Slot:
    """Rows of floats in the working memory."""

    offset: int
    """The number of floats before the first row."""
    stride: int
    """How many floats there are from one row to the next."""
    width: int

    def part(self, start: int, width: int) -> Slot:
        """Some columns of these rows."""
        return Slot(self.offset + start, self.stride, width)


@dataclass(frozen=True, kw_only=True, slots=True)
class CacheBlocks:
    """The places of the keys and values of a step's rows."""

    dtype: torch.dtype
    """The dtype of keys and values: float32 or bfloat16."""
    block_tokens: int
    """The number of tokens in a block. A block is `[layers, 2 (keys, values), kv_heads, block_tokens · head_dim]`; keys
    are stored as `[head_dim, block_tokens]`, values as `[block_tokens, head_dim]`."""
    addresses: Sequence[Sequence[ctypes.Array[ctypes.c_void_p]]]
    """Where the blocks of each row's sequence begin, by group of layers and by row. A block that no window reaches any
    more may be missing (0)."""


@dataclass(frozen=True, slots=True)
class Segment:
    """Neighbouring rows under one adapter."""

    start: int
    stop: int
    factors: FactorTable


@dataclass(slots=True)
class Program:
    """Operations for at most `rows` rows, in the order in which they are added.

    The tensors that operations read are kept; their memory must not be freed or moved while the program is in use.
    """

    rows: int
    sites: list[Site] = field(default_factory=list)
    """The layers that adapters may update, in the order of their factors."""
    _ops: list[_OpStruct] = field(default_factory=list)
    _kept: list[object] = field(default_factory=list)
    _floats: int = 0
    _space: Tensor | None = None
    _views: dict[tuple[Slot, int], Tensor] = field(default_factory=dict)
    _array: ctypes.Array[_OpStruct] | None = None
    _layout: bytes = b""

    def slot(self, width: int) -> Slot:
        """Reserve `width` floats for each row."""
        found = Slot(self._floats, width, width)
        self._floats += -(-self.rows * width // 16) * 16
        return found

    def view(self, slot: Slot, rows: int) -> Tensor:
        """The content of a slot, float32 `[rows, width]`; the next run overwrites this memory."""
        place = slot, rows
        if place not in self._views:
            self._views[place] = self._memory().as_strided((rows, slot.width), (slot.stride, 1), slot.offset)
        return self._views[place]

    def norm(
        self,
        source: Slot,
        to: Slot,
        weight: Tensor,
        bias: Tensor | None,
        eps: float,
        kind: NormKind = NormKind.PLAIN,
        heads: int = 1,
        added: tuple[Slot, float] | None = None,
    ) -> None:
        """Add the operation to = norm(source); each of `heads` equal parts of a row has its own norm.

        If something is `added`, with a factor, the sum first replaces the source.
        """
        op = self._append(
            _OpStruct(kind=_Kind.NORM, source=_struct(source), to=_struct(to), variant=kind, heads=heads, other=eps)
        )
        op.dim = source.width // heads
        op.weight, op.bias = self._address(weight), self._address(bias)
        if added is not None:
            op.beside, op.scale = _struct(added[0]), added[1]

    def add(self, source: Slot, added: Slot, scale: float) -> None:
        """Add the operation source += scale · added."""
        self._append(
            _OpStruct(kind=_Kind.ADD, source=_struct(source), beside=_struct(added), dim=source.width, scale=scale)
        )

    def linear(self, source: Slot, layers: Sequence[tuple[StoredLinear, Slot]]) -> None:
        """Add the products of layers that read the same input."""
        groups: dict[CodeOrder, list[tuple[StoredLinear, Slot]]] = {}
        for layer, to in layers:
            groups.setdefault(layer.weight.order, []).append((layer, to))
        for group in groups.values():
            biases = [layer.bias if layer.gain is None else None for layer, _ in group]
            own = zip(group, biases, strict=True)
            self._products(source, [self._linear(layer.weight, to, bias) for (layer, to), bias in own])
        updates = [(layer.update, to) for layer, to in layers if layer.update is not None]
        if updates:
            downs = [self.slot(update.down.columns) for update, _ in updates]
            self._products(source, [self._linear(u.down, d) for (u, _), d in zip(updates, downs, strict=True)])
            for (update, to), down in zip(updates, downs, strict=True):
                self._products(down, [self._linear(update.up, to, scale=update.scale, add=True)])
        for layer, to in layers:
            if layer.gain is not None:
                op = self._append(_OpStruct(kind=_Kind.GAIN, source=_struct(to), dim=to.width))
                op.weight, op.bias = self._address(layer.gain), self._address(layer.bias)

    def adapted(self, source: Slot, layers: Sequence[tuple[str, StoredLinear, Slot]]) -> None:
        """Add the products of layers that read the same input, with the updates by the adapters of a step.

        Each layer comes with its path.
        """
        products = [self._linear(layer.weight, to) for _, layer, to in layers]
        self._products(source, products, kind=_Kind.ADAPT_DOWN).number = len(self.sites)
        self.linear(source, [(layer, to) for _, layer, to in layers])
        self._products(source, products, kind=_Kind.ADAPT_UP).number = len(self.sites)
        self.sites += [
            Site(path=path, columns=layer.weight.columns, depth=layer.weight.depth) for path, layer, _ in layers
        ]

    def rotate(self, source: Slot, head_dim: int, turned: int, number: int, pairs: Pairs) -> None:
        """Add the operation that turns the first `turned` numbers of every head by the angles of number `number`."""
        heads = source.width // head_dim
        op = self._append(_OpStruct(kind=_Kind.ROTATE, source=_struct(source), heads=heads, kv_heads=head_dim))
        op.dim, op.number, op.variant = turned, number, pairs

    def attend(
        self,
        group: int,
        layer: int,
        queries: Slot,
        keys: Slot,
        values: Slot,
        to: Slot,
        head_dim: int,
        *,
        scale: float,
        window: int | None,
        softcap: float | None,
        sinks: Tensor | None,
    ) -> None:
        """Add attention: put keys and values into the cache of a layer, and mix the values that each row sees.

        The layer is given by its group and its number in the group.
        """
        op = self._append(
            _OpStruct(
                kind=_Kind.ATTEND, source=_struct(queries), beside=_struct(keys), third=_struct(values), number=layer
            )
        )
        op.group, op.to, op.dim, op.scale = group, _struct(to), head_dim, scale
        op.heads, op.kv_heads = queries.width // head_dim, keys.width // head_dim
        op.window, op.other = window or 0, softcap or 0.0
        op.weight = self._address(sinks)

    def gate(self, gate: Slot, up: Slot, to: Slot, function: Gate) -> None:
        """Add the operation to = function(gate) · up."""
        op = self._append(_OpStruct(kind=_Kind.GATE, source=_struct(gate), beside=_struct(up), to=_struct(to)))
        op.dim, op.variant = gate.width, function

    def run(
        self,
        kernels: Kernels,
        *,
        blocks: CacheBlocks,
        seen: Sequence[int],
        angles: Sequence[tuple[Tensor, Tensor]],
        segments: Sequence[Segment] = (),
        places: Sequence[int] | None = None,
        products: KernelProducts = KernelProducts.FLOATS,
        first_prompt: int | None = None,
    ) -> None:
        """Execute the operations for some rows, at most as many as the program was made for.

        Args:
            kernels: the compiled library.
            blocks: the place of each row's cache.
            seen: for each row, the number of keys that it would see without a window, including its own.
            angles: pairs of cosine and sine, each float32 `[places, turned / 2]`; `rotate` names them by number.
            segments: the rows under adapters, in order.
            places: the place of each row's angles; None if the angles have a place for each row.
            products: the products that multiply the rows.
            first_prompt: the first row that is a token of a prompt, as are all later ones; None if there are none.
        """
        rows = len(seen)
        self._check(blocks, seen, segments)
        if products is not KernelProducts.TILES and any(one.factors.in_tiles for one in segments):
            raise ValueError(f"factors for tiles, in a step that multiplies in {products.name}")
        places = range(rows) if places is None else places
        if len(places) != rows or any(not 0 <= min(places) <= max(places) < len(cosine) for cosine, _ in angles):
            raise ValueError(f"angles at {places} of {[len(cosine) for cosine, _ in angles]} for {rows} rows")
        first_prompt = rows if first_prompt is None else first_prompt
        if not 0 <= first_prompt <= rows:
            raise ValueError(f"prompts from row {first_prompt} of {rows}")
        if self._array is None:
            self._array = (_OpStruct * len(self._ops))(*self._ops)
            self._layout = layout_of(self.sites)
        if any(one.factors.layout != self._layout for one in segments):
            raise ValueError("the factors were made for another program")
        tables = (ctypes.c_void_p * (len(blocks.addresses) * rows))(
            *(ctypes.addressof(table) for group in blocks.addresses for table in group)
        )
        structs = (SegmentStruct * len(segments))(
            *(SegmentStruct(start=one.start, stop=one.stop, factors=one.factors.structs) for one in segments)
        )
        kernels.step(
            operations=self._array,
            space=self._memory(),
            rows=rows,
            first_prompt=first_prompt,
            products=products,
            cache_dtype=blocks.dtype,
            block_tokens=blocks.block_tokens,
            blocks=tables,
            seen=(ctypes.c_int64 * rows)(*seen),
            angles=angles,
            places=(ctypes.c_int64 * rows)(*places),
            segments=structs,
        )

    def _check(self, blocks: CacheBlocks, seen: Sequence[int], segments: Sequence[Segment]) -> None:
        """Raise ValueError for numbers that do not fit the program: the library finds its memory by them."""
        rows = len(seen)
        rooms = [[len(table) * blocks.block_tokens for table in group] for group in blocks.addresses]
        fits = 0 < rows <= self.rows and all(len(group) == rows for group in rooms)
        if not fits or any(not 0 < n <= room for group in rooms for n, room in zip(seen, group, strict=True)):
            raise ValueError(f"{rows} rows of {self.rows}, {seen} keys of {rooms}")
        ends = [0, *(end for one in segments for end in (one.start, one.stop)), rows]
        if ends != sorted(ends):
            raise ValueError(f"segments {[(one.start, one.stop) for one in segments]} of {rows} rows")

    def _memory(self) -> Tensor:
        """The working memory of all slots; it is allocated at the first use."""
        if self._space is None:
            self._space = torch.zeros(self._floats, dtype=torch.float32)
        return self._space

    def _append(self, op: _OpStruct) -> _OpStruct:
        self._ops.append(op)
        return op

    def _linear(
        self, weight: StoredMatrix, to: Slot, bias: Tensor | None = None, *, scale: float = 1.0, add: bool = False
    ) -> _LinearStruct:
        self._kept.append(weight)
        return _LinearStruct(
            weight=matrix_struct(weight), bias=self._address(bias), to=_struct(to), scale=scale, add=add
        )

    def _products(self, source: Slot, products: list[_LinearStruct], kind: _Kind = _Kind.LINEAR) -> _OpStruct:
        array = (_LinearStruct * len(products))(*products)
        self._kept.append(array)
        op = self._append(_OpStruct(kind=kind, source=_struct(source), linears=len(products)))
        op.products = ctypes.cast(array, ctypes.POINTER(_LinearStruct))
        return op

    def _address(self, tensor: Tensor | None) -> int | None:
        """The address of a tensor, or of its float32 copy if it is not float32; None if there is no tensor."""
        if tensor is None:
            return None
        kept = tensor.detach().float().contiguous()
        self._kept.append(kept)
        return kept.data_ptr()


def _struct(slot: Slot) -> _PlaceStruct:
    return _PlaceStruct(offset=slot.offset, stride=slot.stride)
