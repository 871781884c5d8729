"""Single operations of a step against plain torch; whole steps are tested in tests/model/test_compiled_step.py."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from helpers.models.compiled_variants import bfloat16_kernels
from helpers.models.tiny_models import largest_difference
from veneer.native.factors import LayerFactors, Site, factor_table, in_pairs
from veneer.native.functions import KernelProducts, Kernels
from veneer.native.library import kernels
from veneer.native.program import CacheBlocks, Gate, NormKind, Pairs, Program, Segment, Slot
from veneer.native.stored import StoredLinear, stored_dense

pytestmark = pytest.mark.skipif(kernels() is None, reason="no compiled kernels")
ROWS, CAPACITY, BLOCK = 3, 9, 3


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def carried_out(
    add: Callable[[Program, Slot], Slot],
    x: Tensor,
    *,
    rows: int = ROWS,
    keys: Tensor | None = None,
    values: Tensor | None = None,
    seen: Tensor | None = None,
    angles: list[tuple[Tensor, Tensor]] | None = None,
    segments: list[Segment] | None = None,
) -> Tensor:
    """What a program of the operations that `add` gives it leaves in the slot that `add` returns."""
    program = Program(ROWS)
    source = program.slot(x.shape[1])
    to = add(program, source)
    library = kernels()
    assert library is not None
    program.view(source, rows).copy_(x[:rows])
    cache = [torch.zeros(ROWS, 1, CAPACITY, 4) if one is None else one for one in (keys, values)]
    counts = [1] * rows if seen is None else seen.tolist()
    # [rows, kv_heads, capacity, dim] twice, to [rows, blocks, layers, keys and values, kv_heads, tokens · dim]
    apart = [one.unflatten(2, (-1, BLOCK)).movedim(2, 1) for one in cache]
    across, along = apart[0].transpose(-1, -2).flatten(-2), apart[1].flatten(-2)
    stacked = torch.stack((across, along), 2)[:, :, None].contiguous()
    program.run(library, blocks=in_blocks(stacked[:rows]), seen=counts, angles=angles or [], segments=segments or [])
    after = (
        stacked[:, :, 0, 0].unflatten(-1, (4, BLOCK)).transpose(-1, -2),
        stacked[:, :, 0, 1].unflatten(-1, (BLOCK, 4)),
    )
    for found, one in zip(after, cache, strict=True):
        one.copy_(found.movedim(1, 2).flatten(2, 3))
    return program.view(to, rows).clone()


def in_blocks(stacked: Tensor) -> CacheBlocks:
    """The blocks `[rows, blocks, …]` of one group of layers."""
    tables = [(ctypes.c_void_p * len(row))(*(block.data_ptr() for block in row)) for row in stacked]
    return CacheBlocks(dtype=torch.float32, block_tokens=BLOCK, addresses=[tables])


def to_new(program: Program, width: int, add: Callable[[Slot], None]) -> Slot:
    slot = program.slot(width)
    add(slot)
    return slot


@pytest.mark.parametrize("by_head", [False, True])
@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("biased", [False, True])
def test_every_norm_is_its_formula(biased: bool, centred: bool, by_head: bool) -> None:
    x, heads = randn(ROWS, 24, seed=1), 3
    weight = randn(24 if by_head else 8, seed=2) + 1
    bias = randn(len(weight), seed=3) if biased else None
    kind = (NormKind.CENTRED if centred else NormKind.PLAIN) | (NormKind.BY_HEAD if by_head else NormKind.PLAIN)

    def add(program: Program, source: Slot) -> Slot:
        return to_new(program, 24, lambda to: program.norm(source, to, weight, bias, 1e-3, kind, heads))

    wide = x.double().view(ROWS, heads, 8)
    if centred:
        wide = wide - wide.mean(-1, keepdim=True)
    normed = wide * (wide.square().mean(-1, keepdim=True) + 1e-3).rsqrt()
    shape = (heads, 8) if by_head else (8,)
    expected = normed * weight.view(shape) + (0 if bias is None else bias.view(shape))
    assert largest_difference(carried_out(add, x), expected.flatten(1)) < 1e-5


def test_a_norm_of_a_sum_replaces_its_source_by_the_sum() -> None:
    x, more, weight = randn(ROWS, 16), randn(ROWS, 16, seed=1), randn(16, seed=2)
    sums: list[Slot] = []

    def add(program: Program, source: Slot) -> Slot:
        # The added rows are made by a product with the identity matrix.
        identity = stored_dense(torch.eye(16))
        assert identity is not None
        added, to = program.slot(16), program.slot(16)
        program.linear(source, [(StoredLinear(weight=identity, bias=more[0]), added)])
        program.norm(source, to, weight, None, 1e-3, added=(added, 0.5))
        sums.append(source)
        return source

    assert largest_difference(carried_out(add, x), x + 0.5 * (x + more[0])) < 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_layers_that_read_one_input(dtype: torch.dtype) -> None:
    x = randn(ROWS, 20)
    weights = [randn(width, 20, seed=width).to(dtype) for width in (5, 12)]
    bias = randn(12, seed=4)
    outs: list[Slot] = []

    def add(program: Program, source: Slot) -> Slot:
        whole = program.slot(17)
        outs.extend((whole.part(0, 5), whole.part(5, 12)))
        stored = [stored_dense(weight) for weight in weights]
        assert stored[0] is not None
        assert stored[1] is not None
        layers = [StoredLinear(weight=stored[0], bias=None), StoredLinear(weight=stored[1], bias=bias)]
        program.linear(source, list(zip(layers, outs, strict=True)))
        return whole

    expected = torch.cat((x @ weights[0].float().t(), x @ weights[1].float().t() + bias), 1)
    assert largest_difference(carried_out(add, x), expected) < 1e-5


@pytest.mark.parametrize("pairs", Pairs)
@pytest.mark.parametrize("turned", [8, 6])
def test_rotation_of_a_part_of_each_head(turned: int, pairs: Pairs) -> None:
    x = randn(ROWS, 16)
    angle = randn(ROWS, turned // 2, seed=1)

    def add(program: Program, source: Slot) -> Slot:
        program.rotate(source, 8, turned, 0, pairs)
        return source

    heads = x.double().view(ROWS, 2, 8)
    front, rest = heads[..., :turned], heads[..., turned:]
    split = front.unflatten(-1, (2, -1)).transpose(-1, -2) if pairs is Pairs.HALVES else front.unflatten(-1, (-1, 2))
    complex_ = (
        torch.view_as_complex(split.contiguous()) * torch.polar(torch.ones(()), angle).to(torch.complex128)[:, None]
    )
    back = torch.view_as_real(complex_)
    back = back.transpose(-1, -2).flatten(-2) if pairs is Pairs.HALVES else back.flatten(-2)
    expected = torch.cat((back, rest), -1).flatten(1)
    found = carried_out(add, x, angles=[(angle.cos(), angle.sin())])
    assert largest_difference(found, expected) < 1e-5


@pytest.mark.parametrize(("window", "softcap", "sinks"), [(None, None, False), (2, None, False), (None, 1.5, True)])
def test_attention_over_what_each_row_has_seen(window: int | None, softcap: float | None, sinks: bool) -> None:
    """Two query heads a key head; keys and values of the new token are written into the cache first."""
    x = randn(ROWS, 16)  # queries of two heads, a key and a value, of four numbers each
    keys, values = randn(ROWS, 1, CAPACITY, 4, seed=1), randn(ROWS, 1, CAPACITY, 4, seed=2)
    before = keys.clone(), values.clone()
    seen = torch.tensor([1, 4, CAPACITY])
    sink = randn(2, seed=3) if sinks else None

    def add(program: Program, source: Slot) -> Slot:
        to = program.slot(8)
        program.attend(
            0, 0, source.part(0, 8), source.part(8, 4), source.part(12, 4), to, 4,
            scale=0.7, window=window, softcap=softcap, sinks=sink,
        )  # fmt: skip
        return to

    found = carried_out(add, x, keys=keys, values=values, seen=seen)
    for row, count in enumerate(seen.tolist()):
        own_keys = torch.cat((before[0][row, 0, : count - 1], x[row, 8:12][None])).double()
        own_values = torch.cat((before[1][row, 0, : count - 1], x[row, 12:][None])).double()
        assert torch.equal(keys[row, 0, count - 1], x[row, 8:12])
        first = 0 if window is None else max(0, count - window)
        for head in range(2):
            scores = own_keys[first:] @ x[row, 4 * head : 4 * head + 4].double() * 0.7
            if softcap is not None:
                scores = softcap * torch.tanh(scores / softcap)
            weights = scores.exp()
            total = weights.sum() + (0 if sink is None else sink[head].double().exp())
            expected = (weights / total) @ own_values[first:]
            assert largest_difference(found[row, 4 * head : 4 * head + 4], expected) < 1e-5


@pytest.mark.parametrize(
    ("gate", "function"),
    [(Gate.SILU, functional.silu), (Gate.GELU_TANH, lambda x: functional.gelu(x, approximate="tanh"))],
)
def test_a_gate_is_its_function_times_the_other_half(gate: Gate, function: Callable[[Tensor], Tensor]) -> None:
    x = 4 * randn(ROWS, 40)

    def add(program: Program, source: Slot) -> Slot:
        return to_new(program, 20, lambda to: program.gate(source.part(0, 20), source.part(20, 20), to, gate))

    assert largest_difference(carried_out(add, x), function(x[:, :20].double()) * x[:, 20:]) < 1e-5


def test_sums_and_fewer_rows_than_the_program_has_room_for() -> None:
    x = randn(ROWS, 20)

    def add(program: Program, source: Slot) -> Slot:
        program.add(source.part(0, 10), source.part(10, 10), 0.25)
        return source.part(0, 10)

    assert largest_difference(carried_out(add, x, rows=2), (x[:, :10] + 0.25 * x[:, 10:])[:2]) < 1e-6


@pytest.mark.parametrize(("rows", "seen"), [(ROWS + 1, [1] * (ROWS + 1)), (2, [0, 1]), (2, [1, CAPACITY + 1])])
def test_numbers_that_would_write_elsewhere_do_not_reach_the_library(rows: int, seen: list[int]) -> None:
    program, library = Program(ROWS), kernels()
    assert library is not None
    blocks = in_blocks(torch.zeros(rows, CAPACITY // BLOCK, 1, 2, 1, BLOCK, 4))
    with pytest.raises(ValueError, match=f"{rows} rows of {ROWS}"):
        program.run(library, blocks=blocks, seen=seen, angles=[])


def test_angles_stand_where_the_rows_places_say() -> None:
    x, angle = randn(ROWS, 16), randn(9, 4, seed=1)
    table, places = (angle.cos(), angle.sin()), [7, 2, 7]

    def turned(angles: tuple[Tensor, Tensor], places: list[int] | None) -> Tensor:
        program, library = Program(ROWS), kernels()
        assert library is not None
        source = program.slot(16)
        program.rotate(source, 8, 8, 0, Pairs.HALVES)
        program.view(source, ROWS).copy_(x)
        blocks = in_blocks(torch.zeros(ROWS, 1, 1, 2, 1, BLOCK, 4))
        program.run(library, blocks=blocks, seen=[1] * ROWS, angles=[angles], places=places)
        return program.view(source, ROWS).clone()

    assert torch.equal(turned(table, places), turned((table[0][places], table[1][places]), None))
    for wrong in ([0, 1], [0, 1, 9], [-1, 0, 1]):
        with pytest.raises(ValueError, match="angles at"):
            turned(table, wrong)


@pytest.mark.parametrize("spans", [[(0, 2), (1, 3)], [(0, 4)], [(2, 1)], [(1, 3), (0, 1)]])
def test_segments_that_overlap_or_leave_the_rows_are_refused(spans: list[tuple[int, int]]) -> None:
    program, library = Program(ROWS), kernels()
    assert library is not None
    blocks = in_blocks(torch.zeros(ROWS, 1, 1, 2, 1, BLOCK, 4))
    segments = [Segment(start, stop, factor_table({}, [])) for start, stop in spans]
    with pytest.raises(ValueError, match="segments"):
        program.run(library, blocks=blocks, seen=[1] * ROWS, angles=[], segments=segments)


@dataclass(frozen=True)
class AdaptedLayers:
    """Layers of one input, and rows of several adapters for them."""

    weights: dict[str, Tensor]
    """The weight `[columns, depth]` of each layer."""
    x: Tensor
    """The rows, `[rows, depth]`."""
    adapters: list[tuple[int, int, dict[str, LayerFactors]]]
    """The first row of each adapter, the one after its last, and its factors by layer."""
    products: KernelProducts = KernelProducts.FLOATS

    @property
    def segments(self) -> list[Segment]:
        sites = [Site(path=path, columns=len(one), depth=one.shape[1]) for path, one in self.weights.items()]
        return [Segment(start, stop, factor_table(layers, sites)) for start, stop, layers in self.adapters]

    def segment_of(self, row: int) -> list[Segment]:
        """The segment of the adapter of a row, for a batch that is this row alone."""
        return [Segment(0, 1, one.factors) for one in self.segments if one.start <= row < one.stop]

    def run(self, library: Kernels, x: Tensor, segments: list[Segment]) -> Tensor:
        """What the layers make of some rows, side by side, in a program with room for all rows."""
        program = Program(len(self.x))
        source, whole = program.slot(x.shape[1]), program.slot(sum(map(len, self.weights.values())))
        layers, first = [], 0
        for path, weight in self.weights.items():
            stored = stored_dense(weight)
            assert stored is not None
            layers.append((path, StoredLinear(weight=stored), whole.part(first, len(weight))))
            first += len(weight)
        program.adapted(source, layers)
        program.view(source, len(x)).copy_(x)
        blocks = in_blocks(torch.zeros(len(x), 1, 1, 2, 1, BLOCK, 4))
        program.run(
            library, blocks=blocks, seen=[1] * len(x), angles=[], segments=segments, products=self.products
        )  # fmt: skip
        return program.view(whole, len(x)).clone()


def by_formula(product: Tensor, inputs: Tensor, a: Tensor, b: Tensor, own: LayerFactors) -> Tensor:
    """gain · (product + scale · inputs A B) + bias, with the A `[depth, rank]` and B `[rank, columns]` of `own`."""
    found = product + own.scale * inputs @ a @ b
    found = found if own.gain is None else found * own.gain.double()
    return found if own.bias is None else found + own.bias.double()


def layers_of_five_adapters(dtype: torch.dtype) -> AdaptedLayers:
    """Ranks, scales, biases and gains differ; three rows between the adapters have none, and one adapter one layer."""
    rows, depth = 23, 70
    weights = {name: randn(width, depth, seed=width) for name, width in (("a", 5), ("b", 300))}

    def factors(rank: int, seed: int, *, biased: bool = False, gained: bool = False) -> dict[str, LayerFactors]:
        made = {}
        for name, weight in weights.items():
            up = randn(rank, len(weight), seed=seed + 1)
            made[name] = LayerFactors(
                down=randn(rank, depth, seed=seed).to(dtype),
                up=in_pairs(up.bfloat16()).contiguous() if dtype == torch.bfloat16 else up,
                scale=0.3 * rank,
                bias=randn(len(weight), seed=seed + 2) if biased else None,
                gain=randn(len(weight), seed=seed + 3) if gained else None,
            )
        return made

    adapters = [
        (0, 2, factors(1, 10)), (2, 9, factors(17, 20, biased=True)), (12, 14, factors(6, 40, gained=True)),
        (14, 19, factors(5, 50, biased=True, gained=True)), (19, 23, {"b": factors(8, 30)["b"]}),
    ]  # fmt: skip
    return AdaptedLayers(weights, randn(rows, depth), adapters)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_each_adapters_rows_meet_its_own_factors_alone(dtype: torch.dtype, native: Kernels) -> None:
    layers = layers_of_five_adapters(dtype)
    expected = [layers.x.double() @ weight.double().t() for weight in layers.weights.values()]
    for start, stop, factors in layers.adapters:
        for part, name in zip(expected, layers.weights, strict=True):
            if name in factors:
                own = factors[name]
                up = own.up.transpose(1, 2).flatten(0, 1) if dtype == torch.bfloat16 else own.up
                a, b = own.down.double().t(), up[: len(own.down)].double()
                part[start:stop] = by_formula(part[start:stop], layers.x[start:stop].double(), a, b, own)
    found = layers.run(native, layers.x, layers.segments)
    assert largest_difference(found, torch.cat(expected, 1)) < 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_between_those_of_adapters_are_the_bases(dtype: torch.dtype, native: Kernels) -> None:
    layers = layers_of_five_adapters(dtype)
    found = layers.run(native, layers.x, layers.segments)
    assert torch.equal(found[9:12], layers.run(native, layers.x[9:12], []))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_adapters_row_does_not_depend_on_the_others(dtype: torch.dtype, native: Kernels) -> None:
    layers = layers_of_five_adapters(dtype)
    found = layers.run(native, layers.x, layers.segments)
    for row in (1, 5, 13, 16, 22):
        assert torch.equal(found[row], layers.run(native, layers.x[row : row + 1], layers.segment_of(row))[0])


def in_tiles(
    rank: int, depth: int, columns: int, *, seed: int, biased: bool = False, gained: bool = False
) -> LayerFactors:
    return LayerFactors(
        down=in_pairs(randn(rank, depth, seed=seed).bfloat16().t()).contiguous(),
        up=in_pairs(randn(rank, columns, seed=seed + 1).bfloat16()).contiguous(),
        scale=0.1,
        bias=randn(columns, seed=seed + 2) if biased else None,
        gain=randn(columns, seed=seed + 3) if gained else None,
    )


def layer_in_tiles(depth: int) -> AdaptedLayers:
    """A layer whose weight is zero, so that only the updates are seen, and four adapters with factors in tiles."""
    rows, columns = 61, 304
    adapters = []
    for start, stop, rank in ((0, 1, 16), (1, 3, 48), (5, 22, 32), (24, 61, 16)):
        own = in_tiles(rank, depth, columns, seed=10 * rank + start, biased=rank == 48, gained=rank > 16)
        adapters.append((start, stop, {"a": own}))
    weights = {"a": torch.zeros(columns, depth).bfloat16()}
    return AdaptedLayers(weights, randn(rows, depth, seed=depth), adapters, KernelProducts.TILES)


@pytest.mark.parametrize("depth", [96, 576])
def test_factors_in_tiles_round_x_alone(depth: int) -> None:
    """What A makes of x is as exact as float32, to 2^-16 of the terms."""
    layers = layer_in_tiles(depth)
    expected, terms = torch.zeros(61, 304).double(), torch.zeros(61, 304).double()
    for start, stop, factors in layers.adapters:
        own, inputs = factors["a"], layers.x[start:stop].bfloat16().double()
        a, b = (factor.transpose(1, 2).flatten(0, 1).double() for factor in (own.down, own.up))
        expected[start:stop] = by_formula(expected[start:stop], inputs, a, b, own)
        absolute = replace(
            own,
            bias=None if own.bias is None else own.bias.abs(),
            gain=None if own.gain is None else own.gain.abs(),
        )
        terms[start:stop] = by_formula(terms[start:stop], inputs.abs(), a.abs(), b.abs(), absolute)
    found = layers.run(bfloat16_kernels(KernelProducts.TILES), layers.x, layers.segments)
    assert ((found.double() - expected).abs() <= 2**-16 * terms).all()


@pytest.mark.parametrize("depth", [96, 576])
def test_a_row_with_factors_in_tiles_does_not_depend_on_the_others(depth: int) -> None:
    layers, library = layer_in_tiles(depth), bfloat16_kernels(KernelProducts.TILES)
    found = layers.run(library, layers.x, layers.segments)
    for row in (0, 2, 5, 21, 40, 60):
        assert torch.equal(found[row], layers.run(library, layers.x[row : row + 1], layers.segment_of(row))[0])
    last = Segment(0, 23, layers.segments[-1].factors)
    assert torch.equal(found[24:47], layers.run(library, layers.x[24:47], [last]))


def test_factors_for_tiles_are_refused_where_nothing_else_is_in_tiles() -> None:
    program, library = Program(ROWS), kernels()
    assert library is not None
    blocks = in_blocks(torch.zeros(ROWS, 1, 1, 2, 1, BLOCK, 4))
    table = factor_table({"a": in_tiles(16, 32, 16, seed=1)}, [Site(path="a", columns=16, depth=32)])
    segments = [Segment(0, 2, table)]
    with pytest.raises(ValueError, match="factors for tiles, in a step that multiplies in FLOATS"):
        program.run(library, blocks=blocks, seen=[1] * ROWS, angles=[], segments=segments)


def test_factors_that_were_laid_out_for_another_program_are_refused(native: Kernels) -> None:
    """Their structs are of other layers, by which the library would read beyond the ends of their memory."""
    program = Program(ROWS)
    source, to = program.slot(32), program.slot(16)
    stored = stored_dense(torch.zeros(16, 32))
    assert stored is not None
    program.adapted(source, [("a", StoredLinear(weight=stored), to)])
    layers = {"a": LayerFactors(down=randn(2, 32), up=randn(2, 16), scale=1.0)}
    own = factor_table(layers, [Site(path="a", columns=16, depth=32)])
    other = factor_table({}, [Site(path="a", columns=16, depth=64)])
    blocks = in_blocks(torch.zeros(ROWS, 1, 1, 2, 1, BLOCK, 4))
    program.run(native, blocks=blocks, seen=[1] * ROWS, angles=[], segments=[Segment(0, 2, own)])
    with pytest.raises(ValueError, match="another program"):
        program.run(
            native, blocks=blocks, seen=[1] * ROWS, angles=[], segments=[Segment(0, 2, own), Segment(2, 3, other)]
        )


@pytest.mark.parametrize("window", [None, 7])
@pytest.mark.parametrize(("dtype", "block"), [(torch.float32, 16), (torch.bfloat16, 16), (torch.float32, 5)])
@pytest.mark.parametrize("dim", [64, 20])
def test_neighbours_of_a_prompt_attend_as_each_alone(
    dim: int, dtype: torch.dtype, block: int, window: int | None, native: Kernels
) -> None:
    """Rows of one sequence read keys together: the bits are those of each alone, the numbers those of the formula."""
    heads, kv_heads, tokens, before = 6, 2, 45, 24
    x = randn(tokens, (heads + 2 * kv_heads) * dim, seed=dim)
    memory = torch.full((-(-tokens // block), 1, 2, kv_heads, block * dim), torch.nan, dtype=dtype)
    table = (ctypes.c_void_p * len(memory))(*(one.data_ptr() for one in memory))

    def run(first: int, stop: int) -> Tensor:
        program, rows = Program(stop - first), stop - first
        source, to = program.slot(x.shape[1]), program.slot(heads * dim)
        program.view(source, rows).copy_(x[first:stop])
        queries, keys = source.part(0, heads * dim), source.part(heads * dim, kv_heads * dim)
        values = source.part((heads + kv_heads) * dim, kv_heads * dim)
        program.attend(
            0, 0, queries, keys, values, to, dim, scale=dim**-0.5, window=window, softcap=None, sinks=None
        )  # fmt: skip
        blocks = CacheBlocks(dtype=dtype, block_tokens=block, addresses=[[table] * rows])
        program.run(native, blocks=blocks, seen=list(range(first + 1, stop + 1)), angles=[])
        return program.view(to, rows).clone()

    run(0, before)
    together = run(before, tokens)
    assert torch.equal(torch.cat([run(row, row + 1) for row in range(before, tokens)]), together)
    queries, keys, values = (
        part.double().view(tokens, -1, dim) for part in x.split([heads * dim, kv_heads * dim, kv_heads * dim], dim=1)
    )
    keys, values = (one.to(dtype).double().repeat_interleave(heads // kv_heads, 1) for one in (keys, values))
    scores = torch.einsum("qhd,khd->hqk", queries, keys) * dim**-0.5
    apart = torch.arange(tokens)[:, None] - torch.arange(tokens)
    scores[:, (apart < 0) | (apart >= (window or tokens))] = -torch.inf
    expected = torch.einsum("hqk,khd->qhd", scores.softmax(-1), values).flatten(1)
    assert largest_difference(together, expected[before:]) < 1e-5
