"""An adapter can be removed, disabled and loaded."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from helpers.adapters.random_adapters import randomised
from helpers.models.tiny_models import documents, packed_logits
from helpers.tensors import assert_same_tensors
from veneer.adapters.adapter import remove
from veneer.adapters.inject import inject
from veneer.adapters.layers.linear import LoraLinear
from veneer.adapters.spec import LoraSpec
from veneer.errors import AdapterError
from veneer.model.decoder import CausalLM


def test_a_removed_adapter_leaves_the_base(model: CausalLM) -> None:
    with torch.no_grad():
        before = packed_logits(model, documents([5]))
        adapter = randomised(inject(model, LoraSpec(rank=2, alpha=2)))
        assert not torch.equal(packed_logits(model, documents([5])), before)
        remove(model, adapter)
        assert torch.equal(packed_logits(model, documents([5])), before)
    assert not any(isinstance(module, LoraLinear) for module in model.modules())


def test_disabled_the_model_is_its_base(model: CausalLM) -> None:
    texts = documents([8, 3])
    with torch.no_grad():
        base = packed_logits(model, texts)
        adapter = randomised(inject(model, LoraSpec(rank=4, alpha=8)))
        with_adapter = packed_logits(model, texts)
        assert not torch.equal(with_adapter, base)
        with adapter.disabled():
            assert torch.equal(packed_logits(model, texts), base)
            with adapter.disabled():
                assert torch.equal(packed_logits(model, texts), base)
            assert torch.equal(packed_logits(model, texts), base)
        assert torch.equal(packed_logits(model, texts), with_adapter)
        with pytest.raises(ZeroDivisionError), adapter.disabled():
            _ = 1 / 0
        assert torch.equal(packed_logits(model, texts), with_adapter)


def changed(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor + 1 for name, tensor in tensors.items()}


def test_loaded_weights_are_the_ones_that_are_used(model: CausalLM) -> None:
    adapter = inject(model, LoraSpec(rank=4, alpha=8))
    wanted = changed(adapter.tensors())
    held = adapter.parameters()
    adapter.load(wanted)
    assert_same_tensors(adapter.tensors(), wanted)
    assert all(a is b for a, b in zip(held, adapter.parameters(), strict=True))
    wanted["model.layers.0.self_attn.q_proj.lora_A.weight"].zero_()
    assert adapter.parameters()[0].any()  # copied, not shared


def test_weights_that_do_not_fit_are_all_listed_and_nothing_is_changed(model: CausalLM) -> None:
    adapter = inject(model, LoraSpec(rank=4, alpha=8))
    before = {name: tensor.clone() for name, tensor in adapter.tensors().items()}
    tensors = changed(before)
    path = "model.layers.1.mlp.down_proj"
    del tensors["model.layers.0.self_attn.q_proj.lora_B.weight"]
    tensors[f"{path}.lora_A.weight"] = torch.zeros(5, 112)
    tensors[f"{path}.lora_B.weight"] = torch.full((64, 4), float("inf"))
    tensors["model.layers.0.self_attn.k_proj.lora_A.weight"][1, 2] = float("nan")
    tensors["model.layers.7.self_attn.k_proj.lora_A.weight"] = torch.zeros(4, 64)
    with pytest.raises(AdapterError) as caught:
        adapter.load(tensors)
    lines = [line.strip(" -") for line in str(caught.value).splitlines() if line.startswith("  - ")]
    assert lines == [
        "model.layers.0.self_attn.k_proj.lora_A.weight: holds NaN or infinite values",
        "model.layers.0.self_attn.q_proj.lora_B.weight: missing from the file",
        f"{path}.lora_A.weight: shape [5, 112], the model needs [4, 112]",
        f"{path}.lora_B.weight: holds NaN or infinite values",
        "model.layers.7.self_attn.k_proj.lora_A.weight: no such layer in the model",
    ]
    assert_same_tensors(adapter.tensors(), before)
