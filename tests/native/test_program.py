"""Single operations of a step against plain torch; whole steps are tested in tests/model/test_compiled_step.py."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tiny_models import largest_difference
from veneer.native.library import kernels
from veneer.native.program import Gate, NormKind, Pairs, Program, Slot
from veneer.native.stored import StoredLinear, stored_dense

pytestmark = pytest.mark.skipif(kernels() is None, reason="no compiled kernels")
ROWS, CAPACITY = 3, 8


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
) -> Tensor:
    """What a program of the operations that `add` gives it leaves in the slot that `add` returns."""
    program = Program(ROWS)
    source = program.slot(x.shape[1])
    to = add(program, source)
    library = kernels()
    assert library is not None
    program.view(source, rows).copy_(x[:rows])
    cache = [torch.zeros(ROWS, 1, CAPACITY, 4) if one is None else one for one in (keys, values)]
    counts = torch.ones(rows, dtype=torch.int64) if seen is None else seen
    program.run(library, rows, cache[:1], cache[1:], counts, angles or [])
    return program.view(to, rows).clone()


def to_new(program: Program, width: int, add: Callable[[Slot], None]) -> Slot:
    slot = program.slot(width)
    add(slot)
    return slot


@pytest.mark.parametrize("by_head", [False, True])
@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("biased", [False, True])
def test_norms(biased: bool, centred: bool, by_head: bool) -> None:
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
    seen = torch.tensor([1, 4, 8])
    sink = randn(2, seed=3) if sinks else None

    def add(program: Program, source: Slot) -> Slot:
        to = program.slot(8)
        program.attend(
            0, source.part(0, 8), source.part(8, 4), source.part(12, 4), to, 4,
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
def test_gates(gate: Gate, function: Callable[[Tensor], Tensor]) -> None:
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
    cache = [torch.zeros(ROWS, 1, CAPACITY, 4)]
    with pytest.raises(ValueError, match=f"{rows} rows of {ROWS}"):
        program.run(library, rows, cache, cache, torch.tensor(seen), [])
