"""An adapter starts as PEFT's would for the same seed, to the bit."""

from __future__ import annotations

from pathlib import Path

import peft
import pytest
import torch

from tiny_models import ours, tiny_llama
from veneer.adapters.init import Layer, kaiming
from veneer.adapters.inject import inject
from veneer.adapters.spec import LoraSpec
from veneer.load import Holding


@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "down_proj"]])
@pytest.mark.parametrize("seed", [0, 1, 12345])
def test_a_equals_peft_bit_for_bit(seed: int, targets: str | list[str], tmp_path: Path) -> None:
    theirs = tiny_llama()
    model = ours(theirs, tmp_path)
    torch.manual_seed(seed)
    reference = peft.get_peft_model(theirs, peft.LoraConfig(r=8, lora_alpha=16, target_modules=targets))
    chosen = targets if isinstance(targets, str) else tuple(targets)
    adapter = inject(model, LoraSpec(rank=8, alpha=16, target_modules=chosen), seed=seed)
    state = reference.state_dict()
    assert len(adapter.layers) == (14 if targets == "all-linear" else 4)
    assert sum("lora_A" in name for name in state) == len(adapter.layers)
    for path, layer in adapter.layers.items():
        assert torch.equal(layer.lora_A, state[f"base_model.model.{path}.lora_A.default.weight"])
        assert torch.equal(layer.lora_B, state[f"base_model.model.{path}.lora_B.default.weight"])


@pytest.mark.parametrize("holding", [Holding.FROZEN, Holding.QUANTIZED])
def test_the_start_depends_on_the_seed_alone(holding: Holding, tmp_path: Path) -> None:
    starts = []
    for dtype in (torch.float32, torch.bfloat16):
        model = ours(tiny_llama(), tmp_path, holding=holding, dtype=dtype)
        torch.manual_seed(int(dtype == torch.float32))
        before = torch.random.get_rng_state()
        adapter = inject(model, LoraSpec(rank=4, alpha=4), seed=9)
        starts.append(adapter.tensors())
        assert all(tensor.dtype == torch.float32 for tensor in adapter.tensors().values())
        assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(tensor, starts[1][name]) for name, tensor in starts[0].items())
    another = inject(ours(tiny_llama(), tmp_path), LoraSpec(rank=4, alpha=4), seed=10).tensors()
    assert not any(torch.equal(another[name], starts[0][name]) for name in another if "lora_A" in name)


def layer(in_features: int, out_features: int, rank: int) -> Layer:
    return Layer(
        path="model.layers.0.mlp.up_proj",
        in_features=in_features,
        out_features=out_features,
        rank=rank,
        scale=2.0,
        generator=torch.Generator().manual_seed(0),
        weight=lambda: torch.randn(out_features, in_features, generator=torch.Generator().manual_seed(1)),
    )


def test_a_is_uniform_within_its_bound_and_b_is_zero() -> None:
    start = kaiming(layer(400, 30, 50))
    a, b = start.a, start.b
    bound = 400**-0.5
    assert (a.shape, b.shape) == ((50, 400), (30, 50))
    assert float(a.abs().max()) <= bound
    assert float(a.std()) == pytest.approx(bound / 3**0.5, rel=0.02)
    assert abs(float(a.mean())) < 4 * bound / 3**0.5 / 20_000**0.5
    assert not b.any()
