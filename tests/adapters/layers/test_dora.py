"""DoRA over any base: the weight that it means, its gradients in float64, and magnitudes that move in bfloat16."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from helpers.models.tiny_models import largest_difference, ours, tiny_llama
from veneer.adapters.inject import inject
from veneer.adapters.layers.dora import DoraLinear, scaled
from veneer.adapters.layers.dropout import Dropout
from veneer.adapters.layers.linear import LoraLinear
from veneer.adapters.spec import LoraSpec
from veneer.enums import Variant
from veneer.generation.batch import generate
from veneer.generation.sampling import Sampling
from veneer.model.leaves import DenseLinear
from veneer.products import BaseLinear
from veneer.quant.four_bit import QuantLinear

IN, OUT, RANK, SCALE = 48, 40, 4, 1.5


def drawn(*shape: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return 0.2 * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def layer(base: BaseLinear, dropout: float = 0.0) -> DoraLinear:
    masks = Dropout(probability=dropout, generator=torch.Generator().manual_seed(3))
    lora = LoraLinear(base, drawn(RANK, IN, seed=1), drawn(OUT, RANK, seed=2), scale=SCALE, dropout=masks)
    dora = DoraLinear(lora)
    with torch.no_grad():
        dora.magnitude.mul_(1 + drawn(OUT, seed=4).abs())
    return dora


def bases() -> list[BaseLinear]:
    weight, bias = drawn(OUT, IN, seed=0), drawn(OUT, seed=9)
    dense = DenseLinear(torch.nn.Parameter(weight, requires_grad=False), torch.nn.Parameter(bias, requires_grad=False))
    return [dense, QuantLinear.from_weight(weight, bias)]


@pytest.mark.parametrize("base", bases(), ids=["dense", "quantised"])
def test_it_multiplies_by_the_turned_weight_and_its_gradients_are_those_of_the_formula(base: BaseLinear) -> None:
    dora, x = layer(base), drawn(7, IN, seed=5).requires_grad_()
    y = dora(x)
    dy = drawn(7, OUT, seed=6)
    y.backward(dy)
    weight = base.dequantize(torch.float32).detach().double()
    a, b, m, x64 = (
        tensor.detach().double().requires_grad_() for tensor in (dora.lora.lora_A, dora.lora.lora_B, dora.magnitude, x)
    )
    turned = weight + SCALE * b @ a
    norm = turned.detach().norm(dim=1)
    assert base.bias is not None
    expected = (m / norm) * (x64 @ turned.t()) + base.bias.detach().double()
    expected.backward(dy.double())
    assert largest_difference(y, expected) < 1e-5
    for found, theirs in ((x, x64), (dora.lora.lora_A, a), (dora.lora.lora_B, b), (dora.magnitude, m)):
        assert found.grad is not None
        assert theirs.grad is not None
        assert largest_difference(found.grad, theirs.grad) < 1e-5
    folded = {"weight": weight.clone()}
    dora.merge_into(folded)
    assert largest_difference(folded["weight"], (m / norm)[:, None] * turned) < 1e-6


@pytest.mark.parametrize("factor", ["lora_A", "lora_B"])
def test_the_norm_follows_a_step_of_either_factor(factor: str) -> None:
    dora, x = layer(bases()[0]), drawn(7, IN, seed=5)
    dora(x)
    with torch.no_grad():
        getattr(dora.lora, factor).mul_(3.0)
    assert torch.equal(dora.gain(), dora.magnitude / dora.norm())


@pytest.mark.parametrize("base", bases(), ids=["dense", "quantised"])
def test_norms_are_those_of_torch_where_there_are_no_kernels(base: BaseLinear, monkeypatch: pytest.MonkeyPatch) -> None:
    dora = layer(base)
    found = dora.norm()
    monkeypatch.setattr("veneer.adapters.layers.dora.kernels", lambda: None)
    assert largest_difference(dora.norm(), found) < 1e-6


def test_dropout_drops_from_what_is_turned_alone() -> None:
    dora, x = layer(bases()[0], dropout=0.5).train(), drawn(64, IN, seed=5)
    y = dora(x)
    left = Dropout(probability=0.5, generator=torch.Generator().manual_seed(3))(x)
    base = dora.lora.base
    weight = base.dequantize(torch.float32)
    gain = dora.magnitude / dora.norm()
    update = SCALE * left @ dora.lora.lora_A.t() @ dora.lora.lora_B.t()
    expected = base(x) + (gain - 1) * (left @ weight.t()) + gain * update
    assert largest_difference(y, expected) < 1e-5


def test_a_magnitude_that_moves_by_a_thousandth_is_felt_in_bfloat16() -> None:
    """A factor rounded to bfloat16 would be 1 for all of these."""
    z = torch.full((1, 256), 3.0, dtype=torch.bfloat16)
    gains = 1 + torch.linspace(0.0005, 0.0035, 256)
    assert torch.equal(gains.bfloat16(), torch.ones(256, dtype=torch.bfloat16))
    steps = scaled(1000 * z, gains).float() - 3008  # 3000 is no number of bfloat16
    assert int(steps.unique().numel()) > 1
    z, g = z.requires_grad_(), gains.requires_grad_()
    scaled(z, g).backward(torch.ones_like(z))
    assert g.grad is not None
    assert g.grad.dtype == torch.float32
    assert torch.equal(g.grad, torch.full((256,), 3.0))


def test_what_follows_from_the_weights_is_computed_once_while_generating(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = ours(tiny_llama(), tmp_path)
    targets = ("q_proj", "embed_tokens", "lm_head")
    adapter = inject(model, LoraSpec(rank=4, alpha=8.0, variant=Variant.DORA, target_modules=targets))
    with torch.no_grad():
        for index, parameter in enumerate(adapter.parameters()):
            parameter.add_(drawn(*parameter.shape, seed=index))
    calls = []
    norm = DoraLinear.norm
    monkeypatch.setattr(DoraLinear, "norm", lambda layer: calls.append(1) or norm(layer))
    plain = generate(model, [[3, 5, 8], [4, 9]], sampling=Sampling(max_new_tokens=6), stop_ids=frozenset())
    assert generate(model, [[3, 5, 8], [4, 9]], sampling=Sampling(max_new_tokens=6), stop_ids=frozenset()) == plain
    assert len(calls) == 3  # once a layer
    with torch.no_grad():
        adapter.outermost["lm_head"].magnitude[7] *= 100
    changed = generate(model, [[3, 5, 8]], sampling=Sampling(max_new_tokens=6), stop_ids=frozenset())
    assert changed != plain[:1]
