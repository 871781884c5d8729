"""A layer with LoRA: the formula in float64, its gradients by autograd, over every kind of base."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from helpers.models.tiny_models import documents, largest_difference, ours, packed_logits, tiny_llama
from veneer.adapters.inject import inject
from veneer.adapters.layers.dropout import Dropout
from veneer.adapters.layers.linear import LoraLinear
from veneer.adapters.spec import LoraSpec
from veneer.loading.forms import WeightForm
from veneer.model.leaves import DenseLinear
from veneer.native.library import kernels
from veneer.products import BaseLinear
from veneer.quant.four_bit import QuantLinear

IN, OUT, RANK = 40, 24, 5
SCALE = 1.7
BASES = ["dense", "dense with bias", "quantised", "quantised with bias"]


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def base_layer(kind: str, dtype: torch.dtype = torch.float32) -> BaseLinear:
    weight = 0.2 * randn(OUT, IN, seed=1)
    bias = randn(OUT, seed=2, dtype=dtype) if "bias" in kind else None
    if "quantised" in kind:
        return QuantLinear.from_weight(weight, bias)
    return DenseLinear(
        nn.Parameter(weight.to(dtype), requires_grad=False),
        None if bias is None else nn.Parameter(bias, requires_grad=False),
    )


def adapted(base: BaseLinear, *, dropout: float = 0.0, seed: int = 7, dtype: torch.dtype = torch.float32) -> LoraLinear:
    generator = torch.Generator().manual_seed(seed)
    a, b = randn(RANK, IN, seed=3, dtype=dtype) / 6, randn(OUT, RANK, seed=4, dtype=dtype)
    return LoraLinear(base, a, b, scale=SCALE, dropout=Dropout(probability=dropout, generator=generator))


def written_out(layer: LoraLinear, x: Tensor, a: Tensor, b: Tensor, mask: Tensor | float) -> Tensor:
    """The formula, everything in float64."""
    weight = layer.base.dequantize(torch.float32).double()
    y = x.double() @ weight.T + SCALE * ((x.double() * mask) @ a.double().T) @ b.double().T
    return y if layer.base.bias is None else y + layer.base.bias.double()


def mask_of(shape: torch.Size, dropout: float, seed: int, dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return Dropout(probability=dropout, generator=generator)(torch.ones(shape, dtype=dtype)).double()


@pytest.mark.skipif(kernels() is None, reason="no compiled kernels: torch's products round by their number of rows")
@pytest.mark.parametrize("kind", BASES)
def test_a_row_in_float32_is_the_one_that_it_is_alone(kind: str) -> None:
    layer, x = adapted(base_layer(kind)), randn(70, IN, seed=5)
    with torch.no_grad():
        whole = layer(x)
        for some in (slice(0, 1), slice(3, 9), slice(64, 70)):
            assert torch.equal(layer(x[some]), whole[some])


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("kind", BASES)
def test_values_and_gradients_equal_the_formula(kind: str, dropout: float) -> None:
    layer = adapted(base_layer(kind), dropout=dropout).train()
    x, dy = randn(17, IN, seed=5).requires_grad_(), randn(17, OUT, seed=6)
    y = layer(x)
    y.backward(dy)
    mask = mask_of(x.shape, dropout, 7, x.dtype) if dropout else 1.0
    inputs = [t.detach().double().requires_grad_() for t in (x, layer.lora_A, layer.lora_B)]
    expected = written_out(layer, inputs[0], inputs[1], inputs[2], mask)
    gradients = torch.autograd.grad(expected, inputs, dy.double())
    assert largest_difference(y, expected) < 1e-5
    for ours_, exact in zip((x.grad, layer.lora_A.grad, layer.lora_B.grad), gradients, strict=True):
        assert ours_ is not None
        assert ours_.dtype == torch.float32
        assert largest_difference(ours_, exact) < 5e-5


@pytest.mark.parametrize("kind", ["dense", "dense with bias"])
def test_the_gradients_are_the_slopes_of_the_outputs(kind: str) -> None:
    base = base_layer(kind, torch.float64)
    x = randn(6, IN, dtype=torch.float64).requires_grad_()
    layer = adapted(base, dtype=torch.float64)
    assert torch.autograd.gradcheck(layer, (x,))
    y = layer(x)
    found = torch.autograd.grad(y, [layer.lora_A, layer.lora_B], torch.ones_like(y))
    for parameter, gradient in zip((layer.lora_A, layer.lora_B), found, strict=True):
        for index in ((0, 0), (2, 3), (4, 1)):
            slopes = []
            for step in (1e-6, -1e-6):
                with torch.no_grad():
                    parameter[index] += step
                    slopes.append(float(layer(x).sum()))
                    parameter[index] -= step
            assert (slopes[0] - slopes[1]) / 2e-6 == pytest.approx(float(gradient[index]), rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("kind", BASES)
def test_an_input_without_gradient_still_trains_the_adapter(kind: str) -> None:
    layer, x = adapted(base_layer(kind)), randn(9, IN)
    layer(x).sum().backward()
    inputs = [t.detach().double().requires_grad_() for t in (layer.lora_A, layer.lora_B)]
    exact = torch.autograd.grad(written_out(layer, x, *inputs, 1.0).sum(), inputs)
    for parameter, gradient in zip((layer.lora_A, layer.lora_B), exact, strict=True):
        assert parameter.grad is not None
        assert largest_difference(parameter.grad, gradient) < 1e-4
    assert x.grad is None


def test_the_mask_of_forward_is_the_mask_of_backward() -> None:
    layer = adapted(base_layer("dense"), dropout=0.5).train()
    with torch.no_grad():
        layer.base.weight.zero_()  # type: ignore[union-attr]
    x = randn(50, IN).requires_grad_()
    layer(x).sum().backward()
    mask = mask_of(x.shape, 0.5, 7, x.dtype)
    assert x.grad is not None
    assert torch.equal(x.grad != 0, mask != 0)
    assert 0.4 < float((mask != 0).double().mean()) < 0.6


def test_masks_differ_from_call_to_call_and_follow_the_seed() -> None:
    x = randn(8, IN)
    layer, again = (adapted(base_layer("dense"), dropout=0.5).train() for _ in range(2))
    first, second = layer(x), layer(x)
    assert not torch.equal(first, second)
    assert torch.equal(again(x), first)
    assert torch.equal(again(x), second)


def test_dropout_does_nothing_in_evaluation() -> None:
    x = randn(8, IN)
    with_dropout, without = adapted(base_layer("dense"), dropout=0.5).eval(), adapted(base_layer("dense"))
    assert torch.equal(with_dropout(x), without(x))


def test_dropout_keeps_the_mean() -> None:
    layer = adapted(base_layer("dense"), dropout=0.4)
    x = randn(1, IN).expand(4000, IN)
    with torch.no_grad():
        exact, noisy = layer.eval()(x)[0], layer.train()(x)
    error = noisy.std(0) / 4000**0.5
    assert bool(((noisy.mean(0) - exact).abs() < 5 * error).all())


@pytest.mark.parametrize("kind", BASES)
def test_without_rows_outputs_are_empty_and_gradients_are_zero(kind: str) -> None:
    layer, x = adapted(base_layer(kind), dropout=0.1).train(), torch.zeros(0, IN, requires_grad=True)
    y = layer(x)
    assert y.shape == (0, OUT)
    y.sum().backward()
    assert x.grad is not None
    assert x.grad.shape == (0, IN)
    assert layer.lora_A.grad is not None
    assert layer.lora_B.grad is not None
    assert not layer.lora_A.grad.any()
    assert not layer.lora_B.grad.any()


@pytest.mark.parametrize("kind", BASES)
def test_bfloat16_products_and_float32_gradients(kind: str) -> None:
    layer = adapted(base_layer(kind, torch.bfloat16))
    x, dy = randn(60, IN, dtype=torch.bfloat16).requires_grad_(), randn(60, OUT, seed=6, dtype=torch.bfloat16)
    y = layer(x)
    y.backward(dy)
    assert y.dtype == torch.bfloat16
    inputs = [t.detach().double().requires_grad_() for t in (x, layer.lora_A, layer.lora_B)]
    expected = written_out(layer, *inputs, 1.0)
    exact = torch.autograd.grad(expected, inputs, dy.double())
    for found, reference in zip((y, x.grad, layer.lora_A.grad, layer.lora_B.grad), (expected, *exact), strict=True):
        assert found is not None
        exact_norm = float(reference.detach().norm())
        assert float((found.detach().double() - reference.detach()).norm()) < 0.01 * exact_norm
    assert layer.lora_A.grad is not None
    assert layer.lora_A.grad.dtype == torch.float32


@pytest.mark.parametrize("kind", ["dense with bias", "quantised with bias"])
def test_a_bias_of_another_dtype_is_cast_as_the_base_does(kind: str) -> None:
    base = base_layer(kind)
    x = randn(3, IN, dtype=torch.bfloat16)
    layer = LoraLinear(base, randn(RANK, IN), torch.zeros(OUT, RANK), scale=1.0)
    assert torch.equal(layer(x), base(x))


def test_delta_is_what_the_adapter_adds() -> None:
    layer, x = adapted(base_layer("dense")), randn(9, IN)
    with torch.no_grad():
        assert largest_difference(layer(x), layer.base(x) + x @ layer.delta().T) < 1e-5
    assert layer.rank == RANK


def test_switched_off_it_is_the_base_bit_for_bit() -> None:
    layer, x = adapted(base_layer("dense with bias")), randn(9, IN)
    layer.enabled = False
    assert torch.equal(layer(x), layer.base(x))


def test_forward_keeps_only_the_input_and_the_small_product() -> None:
    layer = adapted(base_layer("quantised"))
    kept: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    x = randn(8, IN).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        layer(x)
    assert sum(tensor.numel() for tensor in kept if tensor.numel()) <= x.numel() + 8 * RANK + RANK * (IN + OUT)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("form", [WeightForm.FROZEN, WeightForm.QUANTIZED])
@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_a_fresh_adapter_leaves_the_model_bit_for_bit(
    dropout: float, form: WeightForm, dtype: torch.dtype, tmp_path: Path
) -> None:
    model = ours(tiny_llama(changes={"attention_bias": True}), tmp_path, form=form, dtype=dtype)
    texts = documents([12, 1, 30, 29])
    with torch.no_grad():
        before = packed_logits(model, texts)
        adapter = inject(model, LoraSpec(rank=4, alpha=8, dropout=dropout))
        for training in (False, True):
            model.train(training)
            assert torch.equal(packed_logits(model, texts), before)
        adapter.parameters()[1].add_(0.1)
        assert not torch.equal(packed_logits(model, texts), before)


def test_gradients_through_a_quantised_base_are_those_of_its_decoded_weight(tmp_path: Path) -> None:
    """QLoRA: every adapter of the model, against the same model with the decoded weights in float64."""
    theirs = tiny_llama(seed=6)
    model = ours(theirs, tmp_path, form=WeightForm.QUANTIZED)
    adapter = inject(model, LoraSpec(rank=4, alpha=6), seed=1)
    texts = documents([19])
    for index, layer in enumerate(adapter.outermost.values()):
        layer.lora_B.data.copy_(0.1 * randn(*layer.lora_B.shape, seed=index))
    model.train()
    logits = packed_logits(model, texts)
    weights = randn(*logits.shape, seed=99)
    (logits * weights).mean().backward()

    # transformers' model in float64, whose weights are W + s·B·A with A and B to differentiate by.
    wide = theirs.double()
    leaves: dict[str, Tensor] = {}
    updates: dict[str, Tensor] = {}
    for path, layer in adapter.outermost.items():
        a, b = (t.detach().double().requires_grad_() for t in (layer.lora_A, layer.lora_B))
        leaves[f"{path}.A"], leaves[f"{path}.B"] = a, b
        updates[f"{path}.weight"] = layer.base.dequantize(torch.float32).double() + layer.scale * b @ a
    exact = torch.func.functional_call(wide, updates, kwargs={"input_ids": torch.tensor(texts)}).logits[0]
    (exact * weights.double()).mean().backward()
    assert largest_difference(logits, exact) < 1e-4
    for path, layer in adapter.outermost.items():
        for ours_, reference in ((layer.lora_A.grad, leaves[f"{path}.A"]), (layer.lora_B.grad, leaves[f"{path}.B"])):
            assert ours_ is not None
            assert reference.grad is not None
            assert float((ours_ - reference.grad).norm() / reference.grad.norm()) < 1e-4, path
