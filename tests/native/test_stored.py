"""Products with weights as they are stored, by every compiled variant that this processor runs, against float64."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from helpers.models.stored_layers import LAYERS, ROWS, SHAPES, every_layer, fits, layer_of
from veneer.adapters.layers.dora import DoraLinear
from veneer.adapters.layers.linear import LoraLinear, TrainedBias
from veneer.model.leaves import DenseLinear
from veneer.native.build import FLAGS, HERE, SOURCES, VARIANTS
from veneer.native.functions import KernelProducts, Kernels
from veneer.native.program import CacheBlocks, Program
from veneer.native.stored import stored_dense


@pytest.mark.parametrize(
    ("kind", "columns", "depth"), [(kind, *shape) for kind in LAYERS for shape in SHAPES if fits(kind, shape[1])]
)
def test_a_product_is_that_of_the_decoded_weight(kind: str, columns: int, depth: int, native: Kernels) -> None:
    layer, weight = layer_of(kind, columns, depth)
    stored = layer.stored()
    assert stored is not None
    for rows in ROWS:
        x, bias = torch.randn(rows, depth), torch.randn(columns)
        exact = x.double() @ weight.double().T + bias.double()
        terms = x.double().abs() @ weight.double().abs().T + bias.double().abs()

        y = native.rows_product(x, stored.weight, bias)

        assert ((y.double() - exact).abs() <= 2**-20 * terms + 1e-30).all()


@every_layer
def test_weights_are_widened_without_another_rounding(kind: str, native: Kernels) -> None:
    """Products with unit vectors are the decoded weights themselves. Scales of scales change within column 28."""
    layer, weight = layer_of(kind, 40, 576)
    stored = layer.stored()
    assert stored is not None
    unit = torch.eye(576)
    for few in (*unit.split(4), unit[:128]):
        assert torch.equal(native.rows_product(few, stored.weight), few @ weight.T)


@every_layer
@pytest.mark.parametrize("depth", [96, 128, 1088])
def test_a_row_does_not_depend_on_the_others_nor_on_the_threads(
    kind: str, depth: int, native: Kernels, threads: None
) -> None:
    layer, _ = layer_of(kind, 71, depth)
    stored = layer.stored()
    assert stored is not None
    x = torch.randn(37, depth)
    torch.set_num_threads(1)
    whole = native.rows_product(x, stored.weight)
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        for rows in (*ROWS, 37):
            assert torch.equal(native.rows_product(x[:rows], stored.weight), whole[:rows])
            assert torch.equal(native.rows_product(x[37 - rows :], stored.weight), whole[37 - rows :])


@every_layer
def test_no_rows_have_no_products(kind: str, native: Kernels) -> None:
    for columns, depth in (shape for shape in SHAPES if fits(kind, shape[1])):
        stored = layer_of(kind, columns, depth)[0].stored()
        assert stored is not None
        assert native.rows_product(torch.empty(0, depth), stored.weight).shape == (0, columns)


def test_every_float16_and_bfloat16_number_is_read_as_it_is(native: Kernels) -> None:
    bits = torch.arange(2**16, dtype=torch.int32).to(torch.int16)
    one = torch.ones(1, 1)
    for dtype in (torch.float16, torch.bfloat16):
        numbers = bits.view(dtype)
        weight = numbers[numbers.isfinite()][:, None].contiguous()
        stored = stored_dense(weight)
        assert stored is not None
        assert torch.equal(native.rows_product(one, stored)[0], weight[:, 0].float())


def test_an_infinite_or_missing_number_stays_in_its_row(native: Kernels) -> None:
    layer, _ = layer_of("nf4", 30, 96)
    stored = layer.stored()
    assert stored is not None
    x = torch.randn(9, 96)
    expected = native.rows_product(x, stored.weight)
    x[2, 3], x[5, 95] = torch.inf, torch.nan
    y = native.rows_product(x, stored.weight)
    assert not y[[2, 5]].isfinite().any()
    others = [0, 1, 3, 4, 6, 7, 8]
    assert torch.equal(y[others], expected[others])


def test_what_the_kernels_do_not_read_is_not_stored() -> None:
    assert stored_dense(torch.zeros(4, 4, dtype=torch.float64)) is None
    assert stored_dense(torch.zeros(4, 6)[:, :4]) is None


def biased_base() -> DenseLinear:
    return DenseLinear(torch.nn.Parameter(torch.randn(5, 8)), torch.nn.Parameter(torch.randn(5)))


def test_of_an_adapted_layer_its_factors_and_the_sum_of_its_biases_are_stored() -> None:
    base = biased_base()
    lora = LoraLinear(
        base, torch.randn(2, 8), torch.randn(5, 2), scale=3.0, factor_bias=torch.randn(5), subtracted=True
    )
    found = lora.stored()
    assert found is not None
    assert found.update is not None
    assert found.bias is not None
    assert torch.equal(found.update.down.codes, lora.pairs()[0])
    assert torch.equal(found.update.up.codes, lora.pairs()[1])
    assert found.update.scale == 3.0
    assert lora.lora_B_bias is not None
    torch.testing.assert_close(found.bias, base.bias + 3.0 * lora.lora_B_bias)


def test_of_an_adapter_that_is_off_no_update_is_stored() -> None:
    lora = LoraLinear(
        biased_base(), torch.randn(2, 8), torch.randn(5, 2), scale=3.0, factor_bias=torch.randn(5), subtracted=True
    )
    lora.enabled = False
    found = lora.stored()
    assert found is not None
    assert found.update is None


def test_of_a_dora_layer_the_gain_is_stored_unless_it_is_off() -> None:
    base = biased_base()
    lora = LoraLinear(base, torch.randn(2, 8), torch.randn(5, 2), scale=3.0)
    dora = DoraLinear(lora)
    with torch.no_grad():
        dora.magnitude.mul_(1 + torch.rand(5))
    found = dora.stored()
    assert found is not None
    assert found.update is not None
    assert found.gain is not None
    torch.testing.assert_close(found.gain, dora.magnitude.detach() / (base.weight + lora.delta()).norm(dim=1))
    assert found.bias is not None
    assert torch.equal(found.bias, base.bias)
    dora.enabled = False
    found = dora.stored()
    assert found is not None
    assert found.gain is None


def test_a_trained_bias_is_stored_as_it_is_trained() -> None:
    base = biased_base()
    trained = TrainedBias(base, adapted=False)
    with torch.no_grad():
        trained.trained_bias.add_(1.0)
    found = trained.stored()
    assert found is not None
    assert found.bias is not None
    torch.testing.assert_close(found.bias, base.bias + 1.0)


@every_layer
@pytest.mark.parametrize("rank", [0, 1, 16, 340])
@pytest.mark.parametrize("rows", [1, 5, 6, 23, 130])
def test_training_products_and_their_updates(kind: str, rank: int, rows: int, native: Kernels) -> None:
    shapes = [(1, 1), (16, 576), (40, 64), (32, 96), (200, 96), (193, 577), (64, 704), (40, 1536)]
    for columns, depth in [shape for shape in shapes if fits(kind, shape[1])]:
        layer, weight = layer_of(kind, columns, depth)
        stored = layer.stored()
        assert stored is not None
        for by_outputs in (True, False):
            inner, outer = (depth, columns) if by_outputs else (columns, depth)
            x, left, bias = torch.randn(rows, inner), torch.randn(rows, max(rank, 1)), torch.randn(outer)
            right = torch.randn(outer, max(rank, 1)) if by_outputs else torch.randn(max(rank, 1), outer)
            matrix, factor = (m.double().T if by_outputs else m.double() for m in (weight, right))
            exact, terms = x.double() @ matrix + bias, x.double().abs() @ matrix.abs() + bias.abs()
            if rank:
                exact += 0.7 * (left.double() @ factor)
                terms += left.double().abs() @ factor.abs()
            own = stored_dense(right)
            assert own is not None
            y = torch.empty(rows, outer)

            native.frozen_product(x, stored.weight, (left, own) if rank else None, bias, 0.7, y, by_outputs=by_outputs)

            assert ((y.double() - exact).abs() <= 2**-18 * terms + 1e-30).all()


@every_layer
@pytest.mark.parametrize("by_outputs", [True, False])
def test_a_row_of_training_does_not_depend_on_the_others_nor_on_the_threads(
    kind: str, by_outputs: bool, native: Kernels, threads: None
) -> None:
    layer, _ = layer_of(kind, 230, 640)
    stored = layer.stored()
    assert stored is not None
    inner, outer = (640, 230) if by_outputs else (230, 640)
    x, left = torch.randn(61, inner), torch.randn(61, 8)
    right = stored_dense(torch.randn(outer, 8) if by_outputs else torch.randn(8, outer))
    assert right is not None

    def product(first: int, last: int) -> Tensor:
        y = torch.empty(last - first, outer)
        update = (left[first:last], right)
        native.frozen_product(x[first:last], stored.weight, update, None, 2.0, y, by_outputs=by_outputs)
        return y

    torch.set_num_threads(1)
    whole = product(0, 61)
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        for first, last in [(0, 61), (0, 1), (7, 9), (20, 33), (60, 61)]:
            assert torch.equal(product(first, last), whole[first:last])


@pytest.mark.parametrize("shared", [1, 8, 16, 24, 32, 48, 64, 65])
def test_a_column_of_training_does_not_depend_on_the_others(shared: int, native: Kernels) -> None:
    """An adapter's A alone is multiplied as it is among those of other layers."""
    weight, x = torch.randn(80, 577), torch.randn(23, 577)

    def columns(first: int, last: int) -> Tensor:
        stored = stored_dense(weight[first:last].contiguous())
        assert stored is not None
        y = torch.empty(23, last - first)
        native.frozen_product(x, stored, None, None, 1.0, y, by_outputs=True)
        return y

    whole = columns(0, 80)
    assert torch.equal(columns(0, shared), whole[:, :shared])
    assert torch.equal(columns(80 - shared, 80), whole[:, 80 - shared :])


@every_layer
@pytest.mark.parametrize("rank", [1, 3, 16, 65])
def test_norms_of_updated_rows(kind: str, rank: int, native: Kernels, threads: None) -> None:
    for columns, depth in [shape for shape in SHAPES if fits(kind, shape[1])]:
        layer, weight = layer_of(kind, columns, depth)
        stored = layer.stored()
        assert stored is not None
        a, b = torch.randn(rank, depth) / rank, torch.randn(columns, rank)

        found = native.row_norms(stored.weight, a, b, -0.7)

        exact = (weight.double() - 0.7 * b.double() @ a.double()).norm(dim=1)
        terms = (weight.double().abs() + 0.7 * b.double().abs() @ a.double().abs()).norm(dim=1)
        assert found.dtype == torch.float32
        assert ((found.double() - exact).abs() <= 2**-21 * terms).all()
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            assert torch.equal(native.row_norms(stored.weight, a, b, -0.7), found)


def test_norms_of_rows_that_an_update_takes_away_are_what_is_left(native: Kernels) -> None:
    a, b, left = torch.randn(2, 600), torch.randn(40, 2), 1e-3 * torch.randn(40, 600)
    weight = (left.double() - b.double() @ a.double()).float()
    stored = stored_dense(weight)
    assert stored is not None

    found = native.row_norms(stored, a, b, 1.0)

    exact = (weight.double() + b.double() @ a.double()).norm(dim=1)
    torch.testing.assert_close(found.double(), exact, rtol=1e-4, atol=0)


@pytest.mark.parametrize("products", [KernelProducts.PAIRS, KernelProducts.TILES])
@pytest.mark.parametrize(
    ("kind", "columns", "depth"),
    [(kind, *shape) for kind in LAYERS for shape in [(5, 64), (130, 192), (97, 91), (33, 96)] if fits(kind, shape[1])],
)
def test_prompts_are_multiplied_in_bfloat16(
    kind: str, columns: int, depth: int, products: KernelProducts, native: Kernels
) -> None:
    """Factors are rounded, sums are float32, and a row's bits do not depend on the number of rows."""
    if native.bfloat16_products < products:
        pytest.skip(f"there are no products of {products.name.lower()} here")
    layer, weight = layer_of(kind, columns, depth)
    stored, rows, bias = layer.stored(), 83, torch.randn(columns)
    assert stored is not None
    x = torch.randn(rows, depth)

    def run(given: Tensor, first_prompt: int) -> Tensor:
        assert stored is not None
        count = len(given)
        program, no_blocks = Program(count), [[(ctypes.c_void_p * 1)()] * count]
        source, to = program.slot(depth), program.slot(columns)
        program.linear(source, [(replace(stored, bias=bias), to)])
        program.view(source, count).copy_(given)
        blocks = CacheBlocks(dtype=torch.bfloat16, block_tokens=1, addresses=no_blocks)
        program.run(native, blocks=blocks, seen=[1] * count, angles=[], products=products, first_prompt=first_prompt)
        return program.view(to, count).clone()

    found = run(x, 3)
    rounded, terms = x.bfloat16().double(), x.double().abs() @ weight.double().abs().T + bias.double().abs()
    exact = rounded @ weight.bfloat16().double().T + bias.double()
    assert float(((found - exact).abs() / terms)[3:].max()) < 1e-6
    assert torch.equal(found[:3], run(x[:3], 3))
    for first, stop in ((3, 4), (10, 27), (70, 83)):
        assert torch.equal(found[first:stop], run(x[first:stop], 0))


@pytest.mark.slow
def test_products_on_arm_are_exact_and_alone_as_in_a_batch(tmp_path: Path) -> None:
    """Under emulation, which says nothing of speed."""
    compiler, emulator = shutil.which("aarch64-linux-gnu-gcc"), shutil.which("qemu-aarch64")
    if compiler is None or emulator is None:
        pytest.skip("no cross compiler, or no emulator, for 64-bit Arm (aarch64-linux-gnu-gcc, qemu-aarch64)")
    sources = [
        str(Path(__file__).with_name("rows_check.c")),
        *(str(HERE / name) for name in SOURCES),
    ]
    program = tmp_path / "check"
    flags = [*FLAGS, *VARIANTS["aarch64"]["neon"], f"-I{HERE}", "-static", "-o", str(program)]
    subprocess.run([compiler, *sources, *flags, "-lm"], check=True)
    done = subprocess.run([emulator, str(program)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
