"""Products of a step's rows in pairs and tiles of bfloat16, against float64 products of the rounded numbers."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from helpers.models.compiled_variants import bfloat16_kernels
from helpers.models.stored_layers import ROWS, SHAPES, every_layer, fits, layer_of
from veneer.native.functions import KernelProducts, Kernels
from veneer.native.program import CacheBlocks, Program
from veneer.native.stored import StoredLinear, StoredMatrix


@dataclass(frozen=True)
class Narrow:
    """What multiplies bfloat16."""

    kernels: Kernels
    products: KernelProducts

    def product(self, x: Tensor, weight: StoredMatrix, bias: Tensor | None = None) -> Tensor:
        return self.kernels.rows_product(x, weight, bias, self.products)


@pytest.fixture(scope="module", params=[KernelProducts.PAIRS, KernelProducts.TILES], ids=lambda products: products.name)
def narrow(request: pytest.FixtureRequest) -> Narrow:
    return Narrow(bfloat16_kernels(request.param), request.param)


def stored_of(kind: str, columns: int, depth: int) -> tuple[StoredMatrix, Tensor]:
    """A weight in a format, and its numbers in float32."""
    layer, weight = layer_of(kind, columns, depth)
    stored = layer.stored()
    assert stored is not None
    return stored.weight, weight


@every_layer
def test_factors_are_rounded_and_sums_are_float32(kind: str, narrow: Narrow) -> None:
    """A weight is rounded once, from its code times its scale."""
    for columns, depth in (shape for shape in SHAPES if fits(kind, shape[1])):
        stored, weight = stored_of(kind, columns, depth)
        factors = weight.bfloat16().double()
        for rows in ROWS:
            x, bias = torch.randn(rows, depth), torch.randn(columns)
            rounded = x.bfloat16().double()
            exact, terms = rounded @ factors.T + bias.double(), rounded.abs() @ factors.abs().T + bias.double().abs()

            y = narrow.product(x, stored, bias)

            assert ((y.double() - exact).abs() <= 2**-20 * terms + 1e-30).all()


@every_layer
def test_no_rows_have_no_products(kind: str, narrow: Narrow) -> None:
    """A step that ends no prompt wants no logits."""
    for columns, depth in (shape for shape in SHAPES if fits(kind, shape[1])):
        stored, _ = stored_of(kind, columns, depth)
        assert narrow.product(torch.empty(0, depth), stored).shape == (0, columns)


@every_layer
def test_products_with_unit_vectors_are_the_rounded_weights(kind: str, narrow: Narrow) -> None:
    """Scales of scales change within column 28."""
    stored, weight = stored_of(kind, 40, 576)
    unit = torch.eye(576)
    for few in (*unit.split(4), unit[:128]):
        expected = few @ weight.bfloat16().float().T
        assert torch.equal(narrow.product(few, stored), expected)


@every_layer
@pytest.mark.parametrize("depth", [96, 128, 1088])
def test_a_row_does_not_depend_on_the_others_nor_on_the_threads(
    kind: str, depth: int, narrow: Narrow, threads: None
) -> None:
    stored, _ = stored_of(kind, 71, depth)
    x = torch.randn(37, depth)
    torch.set_num_threads(1)
    whole = narrow.product(x, stored)
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        for rows in (*ROWS, 37):
            assert torch.equal(narrow.product(x[:rows], stored), whole[:rows])
            assert torch.equal(narrow.product(x[37 - rows :], stored), whole[37 - rows :])


def test_an_infinite_or_missing_number_stays_in_its_row(narrow: Narrow) -> None:
    stored, _ = stored_of("nf4", 30, 96)
    x = torch.randn(9, 96)
    expected = narrow.product(x, stored)
    x[2, 3], x[5, 95] = torch.inf, torch.nan
    y = narrow.product(x, stored)
    assert not y[[2, 5]].isfinite().any()
    others = [0, 1, 3, 4, 6, 7, 8]
    assert torch.equal(y[others], expected[others])


@every_layer
def test_layers_of_other_formats_share_an_input(kind: str, narrow: Narrow) -> None:
    """Weights of each format have an order of their own, in which the input is laid out for them."""
    depth, weights = 128, [stored_of(other, 24, 128)[0] for other in ("nf4", "Q4_0", "Q8_0", kind)]
    x = torch.randn(5, depth)
    program = Program(len(x))
    source, slots = program.slot(depth), [program.slot(24) for _ in weights]
    program.linear(source, [(StoredLinear(weight=one), to) for one, to in zip(weights, slots, strict=True)])
    program.view(source, len(x)).copy_(x)
    blocks = CacheBlocks(dtype=torch.bfloat16, block_tokens=1, addresses=[[(ctypes.c_void_p * 1)()] * len(x)])
    program.run(narrow.kernels, blocks=blocks, seen=[1] * len(x), angles=[], products=narrow.products)
    for one, to in zip(weights, slots, strict=True):
        assert torch.equal(program.view(to, len(x)), narrow.product(x, one))
