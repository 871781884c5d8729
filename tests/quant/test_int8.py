"""Int8Linear: what it rounds and by how much, that the kernel is the formula, and that an adapter trains on it."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from helpers.models.tiny import run_config
from helpers.models.tiny_models import documents, largest_difference, packed_logits, saved, tiny_llama
from veneer.adapters.inject import inject
from veneer.adapters.layers.linear import LoraLinear
from veneer.adapters.spec import LoraSpec
from veneer.enums import Products
from veneer.errors import ConfigError, ModelError
from veneer.events import Note, StepDone
from veneer.loading.forms import WeightForm
from veneer.loading.how import Loading
from veneer.loading.load import load_model
from veneer.model.attention import PackedAttention
from veneer.native.library import kernels
from veneer.quant import int8
from veneer.quant.four_bit import QuantLinear
from veneer.quant.int8 import GROUP_ELEMENTS, Int8Linear, Int8Matrix, quantize_rows, round_to_int8
from veneer.training.run import train

NATIVE = kernels()
needs_kernel = pytest.mark.skipif(
    NATIVE is None or not NATIVE.has_int8, reason="the 8-bit product needs AVX-512 VNNI and compiled kernels"
)
SIZES = [(1, 1), (3, 5), (16, 4), (17, 127), (48, 128), (100, 129), (192, 576), (35, 1536)]
"""Rows and columns of a matrix, whole strips and groups and not."""
DTYPES = (torch.float32, torch.bfloat16)
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 4e-3}
"""Of a result, relative to the largest: float32 sums of groups, and one rounding to the dtype."""


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def assert_near(found: Tensor, expected: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=tolerance * (float(expected.abs().max()) + 1e-30))


@pytest.fixture
def without_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int8, "kernels", lambda: None)


# ------------------------------------------------------------------------------------------------------------ rounding


@pytest.mark.parametrize("dtype", DTYPES)
def test_an_element_is_off_by_at_most_half_a_step(dtype: torch.dtype) -> None:
    x = normal(50, 300, dtype=dtype) * torch.logspace(-12, 12, 50)[:, None].to(dtype)
    codes, scales = quantize_rows(x)
    assert codes.dtype == torch.int8
    assert codes.abs().max() == 127
    assert torch.equal(scales, x.float().abs().amax(1, keepdim=True) / 127)
    error = (x.double() - codes.double() * scales.double()).abs()
    assert bool((error <= scales.double() * (0.5 + 1e-4)).all())


def test_each_group_of_an_input_has_a_scale_of_its_own() -> None:
    x = normal(4, 2 * GROUP_ELEMENTS + 10)
    x[:, GROUP_ELEMENTS + 3] = 1000.0
    error = (round_to_int8(x) - x).abs()
    assert float(error[:, :GROUP_ELEMENTS].max()) < 0.02
    assert float(error[:, 2 * GROUP_ELEMENTS :].max()) < 0.02
    assert float(error[:, GROUP_ELEMENTS : 2 * GROUP_ELEMENTS].max()) > 1.0


@pytest.mark.parametrize("value", [0.0, 1e-38, -1e-32])
def test_what_is_next_to_nothing_is_zero(value: float) -> None:
    codes, scales = quantize_rows(torch.full((2, 5), value))
    assert not codes.any()
    assert bool(scales.isfinite().all())


@pytest.mark.parametrize("kernel", [pytest.param(True, marks=needs_kernel), False])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_stays_visible(kernel: bool, value: float, request: pytest.FixtureRequest) -> None:
    if not kernel:
        request.getfixturevalue("without_kernels")
    matrix = Int8Matrix(normal(20, 150))
    for dtype in DTYPES:
        x = normal(3, 150, seed=1, dtype=dtype)
        x[1, 140] = value
        y = matrix.multiply(x)
        assert not y[1].isfinite().any()
        assert bool(y[[0, 2]].isfinite().all())


# ------------------------------------------------------------------------------------------------------------ products


@needs_kernel
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "width"), SIZES)
@pytest.mark.parametrize("tokens", [1, 3, 64, 203])
def test_the_kernel_is_the_formula(tokens: int, rows: int, width: int, dtype: torch.dtype) -> None:
    weight, x = normal(rows, width), normal(tokens, width, seed=1, dtype=dtype)
    matrix = Int8Matrix(weight)
    assert matrix.offsets is not None
    codes, scales = quantize_rows(weight)
    assert torch.equal(matrix.dequantize(torch.float32), codes * scales)
    expected = round_to_int8(x).double() @ (codes * scales).double().t()
    assert_near(matrix.multiply(x), expected, TOLERANCE[dtype])


@needs_kernel
def test_sums_in_integers_are_exact() -> None:
    """Rows whose largest magnitude is 127 have the scale 1, so that every number here is an integer."""
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randint(-127, 128, (n, 5 * GROUP_ELEMENTS), generator=generator).float() for n in (70, 50))
    x[:, ::GROUP_ELEMENTS], weight[:, 0] = 127.0, -127.0
    assert torch.equal(Int8Matrix(weight).multiply(x), x @ weight.t())


@needs_kernel
@pytest.mark.parametrize("threads", [2, 3, 5])
@pytest.mark.parametrize("tokens", [1, 9, 130])
def test_the_number_of_threads_changes_no_bit(tokens: int, threads: int) -> None:
    matrix, x = Int8Matrix(normal(100, 300)), normal(tokens, 300, seed=1)
    before = torch.get_num_threads()
    found = []
    try:
        for count in (1, threads):
            torch.set_num_threads(count)
            found.append(matrix.multiply(x))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*found)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "width"), SIZES)
def test_without_kernels_torch_makes_the_same_product(
    rows: int, width: int, dtype: torch.dtype, without_kernels: None
) -> None:
    weight, x = normal(rows, width), normal(7, width, seed=1, dtype=dtype)
    matrix = Int8Matrix(weight)
    assert matrix.offsets is None
    expected = round_to_int8(x).double() @ matrix.dequantize(torch.float32).double().t()
    assert_near(matrix.multiply(x), expected, TOLERANCE[dtype])


@pytest.mark.parametrize("tokens", [0, 1, 40])
def test_the_error_of_a_product_is_within_that_of_its_factors(tokens: int) -> None:
    weight, x = normal(48, 300), normal(tokens, 300, seed=1)
    x[:, 7] *= 30
    layer = Int8Linear(weight)
    # |x̂ŵ − xw| ≤ |x| s_w/2 + |w| s_x/2 + s_x s_w/4 for every pair, with one s_x a group and one s_w a row.
    x_step = (round_to_int8(x).double() - x.double()).abs()
    w_step = weight.double().abs().amax(1) / 127 / 2
    bound = x.double().abs() @ w_step.expand(300, 48) + x_step @ weight.double().abs().t()
    bound += x_step.sum(1, keepdim=True) * w_step
    error = (layer(x).double() - x.double() @ weight.double().t()).abs()
    assert error.shape == (tokens, 48)
    assert bool((error <= bound * (1 + 1e-4) + 1e-4).all())


@pytest.mark.parametrize("dtype", DTYPES)
def test_bias_is_added_exactly(dtype: torch.dtype) -> None:
    weight, bias, x = normal(24, 40), normal(24, seed=1), normal(5, 40, seed=2, dtype=dtype)
    assert torch.equal(Int8Linear(weight, bias)(x), Int8Linear(weight)(x) + bias.to(dtype))


def test_inputs_that_are_views_are_taken() -> None:
    layer, x = Int8Linear(normal(24, 40)), normal(40, 9)
    assert torch.equal(layer(x.t()), layer(x.t().contiguous()))
    assert torch.equal(layer(normal(9, 60)[:, :40]), layer(normal(9, 60)[:, :40].contiguous()))


# ------------------------------------------------------------------------------------------------------------ gradient


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_gradient_is_the_product_with_the_copy_by_inputs(dtype: torch.dtype) -> None:
    weight = normal(48, 40)
    layer = Int8Linear(weight)
    x = normal(6, 40, seed=1, dtype=dtype).requires_grad_()
    grad = normal(6, 48, seed=2, dtype=dtype)
    layer(x).backward(grad)
    codes, scales = quantize_rows(weight.t())
    assert x.grad is not None
    assert x.grad.dtype == dtype
    assert_near(x.grad, round_to_int8(grad).double() @ (codes * scales).double().t(), TOLERANCE[dtype])
    assert torch.equal(x.grad, layer.input_gradient(grad))
    assert not layer(x.detach()).requires_grad


def test_an_adapter_has_exact_gradients_of_its_own() -> None:
    base = Int8Linear(normal(48, 40))
    layer = LoraLinear(base, normal(4, 40, seed=1), normal(48, 4, seed=2), scale=0.5)
    x, grad = normal(6, 40, seed=3).requires_grad_(), normal(6, 48, seed=4)
    y = layer(x)
    y.backward(grad)
    a, b = layer.lora_A.detach(), layer.lora_B.detach()
    torch.testing.assert_close(y.detach(), base(x.detach()) + 0.5 * x.detach() @ a.t() @ b.t())
    assert layer.lora_A.grad is not None
    assert layer.lora_B.grad is not None
    assert x.grad is not None
    torch.testing.assert_close(layer.lora_A.grad, 0.5 * (grad @ b).t() @ x.detach())
    torch.testing.assert_close(layer.lora_B.grad, 0.5 * grad.t() @ (x.detach() @ a.t()))
    torch.testing.assert_close(x.grad, base.input_gradient(grad) + 0.5 * grad @ b @ a)


# ---------------------------------------------------------------------------------------------------------- the module


def test_it_is_frozen_and_takes_two_bytes_a_weight() -> None:
    layer = Int8Linear(nn.Parameter(normal(128, 256)))
    assert not list(layer.parameters())
    assert not any(buffer.requires_grad for buffer in layer.buffers())
    # Beside the codes: a scale for every row of either copy, and for the kernel an offset for every group of a row.
    beside = 4 * (128 + 256) + (4 * (128 * 2 + 256) if layer.by_output.offsets is not None else 0)
    assert sum(buffer.nbytes for buffer in layer.buffers()) == 2 * 128 * 256 + beside


def test_casting_the_module_leaves_its_numbers_alone() -> None:
    layer, x = Int8Linear(normal(24, 40), normal(24, seed=1)), normal(3, 40, seed=2)
    before = layer.dequantize(torch.float32)
    for cast in (layer.bfloat16(), layer.half(), layer.double(), layer.float()):
        assert torch.equal(cast.dequantize(torch.float32), before)
        assert torch.equal(Int8Linear(normal(24, 40)).by_output.multiply(x), cast.by_output.multiply(x))
    assert layer.to("meta").by_input.codes.device.type == "meta"


def test_sources_are_neither_changed_nor_shared() -> None:
    weight, bias = normal(24, 40), normal(24, seed=1)
    layer = Int8Linear(weight, bias)
    x = normal(2, 40, seed=2)
    before = layer(x)
    weight.zero_()
    bias.zero_()
    assert torch.equal(layer(x), before)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_weight_that_is_not_finite_is_refused(value: float) -> None:
    weight = normal(24, 40)
    weight[3, 5] = weight[7, 1] = value
    with pytest.raises(ModelError, match="2 of 24 rows"):
        Int8Linear(weight)


# ----------------------------------------------------------------------------------------------------------- the model


@pytest.fixture
def allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loads on every machine: what a layer computes does not depend on who refuses to load it."""
    monkeypatch.setattr("veneer.loading.load.check_products", lambda products, device: None)


@pytest.mark.parametrize("form", [WeightForm.FROZEN, WeightForm.QUANTIZED])
def test_every_linear_layer_is_held_in_8_bits_and_nothing_else(form: WeightForm, tmp_path: Path, allowed: None) -> None:
    checkpoint = saved(tiny_llama(changes={"attention_bias": True}), tmp_path)
    exact = load_model(checkpoint, Loading(form=form, dtype=torch.float32))
    model = load_model(checkpoint, Loading(form=form, dtype=torch.float32, products=Products.INT8))
    layers = {name: module for name, module in model.named_modules() if isinstance(module, Int8Linear)}
    assert len(layers) == 2 * 7
    for name, layer in layers.items():
        held = exact.get_submodule(name)
        assert isinstance(held, QuantLinear) == (form is WeightForm.QUANTIZED)
        reference = Int8Linear(held.dequantize(torch.float32))  # type: ignore[operator]
        assert torch.equal(layer.dequantize(torch.float32), reference.dequantize(torch.float32))
        assert (layer.bias is None) == (".mlp." in name)
    assert not any(isinstance(module, QuantLinear) for module in model.modules())
    texts = documents([9, 14])
    with torch.no_grad():
        difference = largest_difference(packed_logits(model, texts), packed_logits(exact, texts))
    assert 0 < difference < 0.5


def test_weights_that_are_trained_are_not_held_in_8_bits(tmp_path: Path, allowed: None) -> None:
    checkpoint = saved(tiny_llama(), tmp_path)
    with pytest.raises(ConfigError, match="frozen base"):
        load_model(checkpoint, Loading(form=WeightForm.TRAINABLE, products=Products.INT8))


@pytest.mark.parametrize("dtype", DTYPES)
def test_an_adapter_on_it_trains(dtype: torch.dtype, tmp_path: Path, allowed: None) -> None:
    checkpoint = saved(tiny_llama(), tmp_path)
    ends = {}
    for products in Products:
        model = load_model(checkpoint, Loading(dtype=dtype, products=products))
        adapter = inject(model, LoraSpec(rank=8, alpha=16.0))
        optimizer = torch.optim.Adam(adapter.parameters(), lr=1e-2)
        tokens = torch.randint(0, 96, (40,), generator=torch.Generator().manual_seed(1))
        losses = []
        for _ in range(30):
            optimizer.zero_grad()
            hidden = model.hidden(tokens, torch.arange(40), PackedAttention((40,)))
            loss = nn.functional.cross_entropy(model.logits(hidden[:-1]).float(), tokens[1:])
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        assert losses[-1] < 0.5 * losses[0]
        ends[products] = losses[-1]
    assert ends[Products.INT8] == pytest.approx(ends[Products.EXACT], abs=0.15)


@needs_kernel
@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_a_run_with_it_says_so_and_keeps_to_it(method: str, tiny_model: Path, tiny_data: Path, tmp_path: Path) -> None:
    events: list[object] = []
    settings = (f"method={method}", "compute.products=int8", "train.steps=30")
    result = train(run_config(tiny_model, tiny_data, tmp_path / "run", *settings), emit=events.append)
    assert sum(isinstance(module, Int8Linear) for module in result.model.modules()) == 2 * 7
    assert any("compute.products int8" in event.message for event in events if isinstance(event, Note))
    assert "products: int8" in (tmp_path / "run" / "config.yaml").read_text()
    losses = [event.loss for event in events if isinstance(event, StepDone)]
    assert losses[-1] < 0.5 * losses[0]
