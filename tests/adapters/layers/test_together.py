"""Several updates over one input are those of the single layers, outputs and gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from helpers.cards import as_on_a_card
from helpers.models.compiled_variants import bfloat16_kernels
from veneer import products
from veneer.adapters.layers import linear
from veneer.adapters.layers.dropout import Dropout
from veneer.adapters.layers.linear import LoraLinear
from veneer.adapters.layers.rounded import RoundedFactors
from veneer.model.leaves import DenseLinear, outputs_of
from veneer.native.functions import KernelProducts
from veneer.quant.four_bit import QuantLinear

INPUTS = 48


def layers(
    outputs: tuple[int, ...], ranks: tuple[int, ...], *, bias: bool = False, scale: float = 0.7
) -> list[LoraLinear]:
    made = []
    for size, rank in zip(outputs, ranks, strict=True):
        weight = nn.Parameter(torch.randn(size, INPUTS), requires_grad=False)
        own = nn.Parameter(torch.randn(size), requires_grad=False) if bias else None
        made.append(
            LoraLinear(DenseLinear(weight, own), torch.randn(rank, INPUTS), torch.randn(size, rank), scale=scale)
        )
    return made


def results(
    made: list[LoraLinear], x: Tensor, grads: list[Tensor], *, learns: bool = True, together: bool = True
) -> list[Tensor]:
    """Outputs, and gradients of the input and of all factors."""
    leaf = x.clone().requires_grad_(learns)
    found = outputs_of(made, leaf) if together else tuple(layer(leaf) for layer in made)
    factors = [factor for layer in made for factor in (layer.lora_A, layer.lora_B)]
    return [*found, *torch.autograd.grad(found, [*([leaf] if learns else []), *factors], grads)]


@pytest.fixture
def joined(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many layers were joined each time."""
    calls: list[int] = []
    real = linear.together

    def noted(x: Tensor, parts: list[object], factors: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, ...]:
        calls.append(len(parts))
        return real(x, parts, factors)

    monkeypatch.setattr(linear, "together", noted)
    return calls


@pytest.mark.parametrize("learns", [True, False])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("outputs", "ranks"), [((32, 16, 16), (4, 4, 4)), ((64, 64), (3, 5)), ((8,), (2,))])
def test_they_are_those_of_the_single_layers(
    outputs: tuple[int, ...],
    ranks: tuple[int, ...],
    bias: bool,
    learns: bool,
    joined: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = layers(outputs, ranks, bias=bias)
    x = torch.randn(11, INPUTS, dtype=torch.float64)
    grads = [torch.randn(11, size, dtype=torch.float64) for size in outputs]
    expected = results(made, x, grads, learns=learns)
    assert joined == []
    as_on_a_card(monkeypatch)
    found = results(made, x, grads, learns=learns)
    assert joined == [len(outputs)]
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == theirs.dtype
        torch.testing.assert_close(ours.double(), theirs.double(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", [KernelProducts.PAIRS, KernelProducts.TILES], ids=lambda kind: kind.name)
@pytest.mark.parametrize("learns", [True, False])
@pytest.mark.parametrize("quantised", [False, True])
@pytest.mark.parametrize(("outputs", "ranks"), [((96, 32, 32), (16, 8, 8)), ((130, 70), (6, 20)), ((64, 64), (3, 5))])
def test_by_the_kernels_they_are_those_of_the_single_layers_to_the_bit(
    outputs: tuple[int, ...],
    ranks: tuple[int, ...],
    quantised: bool,
    learns: bool,
    kind: KernelProducts,
    joined: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own = bfloat16_kernels(kind)
    monkeypatch.setattr(products, "kernels", lambda: own)
    made = layers(outputs, ranks, bias=True, scale=0.7)
    for layer in made:
        if quantised:
            layer.base = QuantLinear.from_weight(layer.base.dequantize(torch.float32), layer.base.bias)
    x, grads = torch.randn(50, INPUTS).bfloat16(), [torch.randn(50, size).bfloat16() for size in outputs]
    expected = results(made, x, grads, learns=learns, together=False)
    assert joined == []
    found = results(made, x, grads, learns=learns)
    assert joined == [len(outputs)]
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours, theirs)


def test_in_float32_and_with_few_rows_a_processor_computes_each_by_itself(joined: list[int]) -> None:
    made = layers((32, 16), (4, 4))
    for x in (torch.randn(50, INPUTS), torch.randn(5, INPUTS).bfloat16()):
        outputs_of(made, x)
    assert joined == []


def test_factors_that_were_rounded_ahead_are_used_while_they_have_not_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    made = layers((32, 16, 16), (4, 4, 4), scale=2.0)
    x = torch.randn(11, INPUTS).bfloat16()
    as_on_a_card(monkeypatch)
    plain = outputs_of(made, x)
    room = RoundedFactors([layer.pairs() for layer in made], torch.bfloat16)
    for layer, rounded in zip(made, room.refresh(), strict=True):
        layer.rounded = rounded
    for ours, theirs in zip(outputs_of(made, x), plain, strict=True):
        assert torch.equal(ours, theirs)
    with torch.no_grad():
        made[1].lora_B.mul_(3.0)
    changed = outputs_of(made, x)
    made[1].rounded = None
    assert torch.equal(changed[1], outputs_of(made, x)[1])
    assert not torch.equal(changed[1], plain[1])


def test_layers_that_are_more_than_plain_updates_compute_for_themselves(
    joined: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    as_on_a_card(monkeypatch)
    x = torch.randn(5, INPUTS, dtype=torch.float64)

    def with_third(third: nn.Module) -> None:
        assert len(outputs_of([*layers((8, 8), (2, 2)), third], x)) == 3

    weight = nn.Parameter(torch.randn(8, INPUTS), requires_grad=False)
    base, a, b = DenseLinear(weight), torch.randn(2, INPUTS), torch.randn(8, 2)
    dropping = Dropout(probability=0.5, generator=torch.Generator())
    off = LoraLinear(base, a, b, scale=0.7)
    off.enabled = False
    still = LoraLinear(base, a, b, scale=0.7)
    still.lora_A.requires_grad_(False)
    for third in (
        base, off, still,
        LoraLinear(base, a, b, scale=0.5),
        LoraLinear(base, a, b, scale=0.7, dropout=dropping),
        LoraLinear(base, a, b, scale=0.7, factor_bias=torch.zeros(8)),
        LoraLinear(base, a, b, scale=0.7, subtracted=True),
    ):  # fmt: skip
        with_third(third)
    assert joined == []
    with_third(LoraLinear(base, a, b, scale=0.7, dropout=dropping).eval())
    with_third(LoraLinear(QuantLinear.from_weight(weight.detach()), a, b, scale=0.7))
    assert joined == [3, 3]
