"""Which layers carry an adapter, and what is refused with every reason."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from helpers.adapters.random_adapters import PATHS, randomised
from helpers.models.tiny_models import documents, ours, packed_logits, tiny_llama
from veneer.adapters.inject import inject
from veneer.adapters.layers.linear import LoraLinear
from veneer.adapters.spec import DECOMPOSING, LoraSpec
from veneer.enums import Init
from veneer.errors import AdapterError
from veneer.loading.forms import WeightForm
from veneer.model.decoder import CausalLM


def test_the_layers_of_a_model_in_its_order(model: CausalLM) -> None:
    assert model.linear_paths() == PATHS


@pytest.mark.parametrize("form", [WeightForm.FROZEN, WeightForm.QUANTIZED, WeightForm.TRAINABLE])
def test_only_the_adapter_is_trainable(form: WeightForm, tmp_path: Path) -> None:
    model = ours(tiny_llama(), tmp_path, form=form)
    adapter = inject(model, LoraSpec(rank=3, alpha=6, target_modules=("v_proj", "up_proj")))
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert {id(p) for p in trainable} == {id(p) for p in adapter.parameters()}
    assert len(trainable) == 8
    for path, layer in adapter.outermost.items():
        assert model.get_submodule(path) is layer
        assert layer.scale == 2.0
        assert layer.lora_A.shape == (3, layer.in_features)
        assert layer.lora_B.shape == (layer.out_features, 3)
    assert list(adapter.tensors()) == [
        f"{path}.lora_{part}.weight" for path in PATHS if path.endswith(("v_proj", "up_proj")) for part in "AB"
    ]


@pytest.mark.parametrize("training", [True, False])
def test_the_adapter_takes_the_mode_of_the_model(training: bool, model: CausalLM) -> None:
    """An adapter that is put on a model in evaluation mode must not drop anything."""
    model.train(training)
    adapter = randomised(inject(model, LoraSpec(rank=4, alpha=8, dropout=0.5)))
    assert all(layer.training == training for layer in adapter.outermost.values())
    repeated = [packed_logits(model, documents([6])) for _ in range(2)]
    assert torch.equal(*repeated) != training


@pytest.mark.parametrize("init", DECOMPOSING)
def test_a_rank_beyond_what_a_start_can_give_names_the_layers_and_changes_nothing(init: Init, model: CausalLM) -> None:
    with pytest.raises(AdapterError) as caught:
        inject(model, LoraSpec(rank=33, alpha=1, init=init))
    message = str(caught.value)
    assert f"init {init.value}" in message
    assert "model.layers.0.self_attn.k_proj: rank 33, at most 32" in message
    assert message.count("at most 32") == 4
    assert "q_proj" not in message
    assert not any(isinstance(module, LoraLinear) for module in model.modules())


def test_a_start_that_is_drawn_may_have_a_rank_beyond_a_layers_smaller_side(model: CausalLM) -> None:
    assert len(inject(model, LoraSpec(rank=200, alpha=1)).outermost) == 14


def test_a_second_adapter_is_refused_and_the_first_stays(model: CausalLM) -> None:
    adapter = inject(model, LoraSpec(rank=2, alpha=2))
    before = packed_logits(model, documents([5]))
    with pytest.raises(AdapterError, match="already has an adapter"):
        inject(model, LoraSpec(rank=4, alpha=2))
    assert torch.equal(packed_logits(model, documents([5])), before)
    assert all(parameter.requires_grad for parameter in adapter.parameters())
