"""What a saved adapter is, by the names of its tensors."""

from __future__ import annotations

from pathlib import Path

import pytest

from veneer.adapters.files.tensor_spec import spec_of_tensors
from veneer.adapters.spec import LoraSpec
from veneer.adapters.targets import EMBEDDING, HEAD
from veneer.errors import AdapterError

LAYER = "model.layers.0.self_attn"
FACTORS = [f"{LAYER}.{leaf}.lora_{part}.weight" for leaf in ("q_proj", "k_proj") for part in "AB"]


def test_targets_ranks_and_saved_modules_are_whole_paths() -> None:
    spec = LoraSpec(
        rank=4,
        alpha=8.0,
        target_modules=("q_proj", "k_proj", "v_proj"),
        exclude_modules=("nothing",),
        layers_to_transform=(0,),
        rank_pattern={"k_proj": 2, "v_proj": 3},
        modules_to_save=("norm",),
    )
    copies = [f"{EMBEDDING}.base_layer.weight", f"{HEAD}.original_module.weight", f"{HEAD}.weight"]
    names = [*FACTORS, "model.layers.0.input_layernorm.weight", "model.layers.0.input_layernorm.bias", *copies]
    found = spec_of_tensors(names, spec, Path())
    assert found.target_modules == (f"{LAYER}.q_proj", f"{LAYER}.k_proj")
    assert (found.exclude_modules, found.layers_to_transform) == ((), None)
    assert found.rank_pattern == {f"{LAYER}.q_proj": 4, f"{LAYER}.k_proj": 2}
    assert found.modules_to_save == ("model.layers.0.input_layernorm",)


@pytest.mark.parametrize("tied", [True, False])
def test_a_head_that_is_tied_to_a_saved_embedding_is_no_module_of_its_own(tied: bool) -> None:
    spec = LoraSpec(rank=4, alpha=8.0, modules_to_save=("embed_tokens", "lm_head"), tied_modules=tied)
    found = spec_of_tensors([*FACTORS, f"{EMBEDDING}.weight", f"{HEAD}.weight"], spec, Path())
    assert found.modules_to_save == ((EMBEDDING,) if tied else (EMBEDDING, HEAD))


def test_a_tensor_of_no_known_kind_is_named() -> None:
    with pytest.raises(AdapterError, match=r"unknown kinds:\n  - model\.odd"):
        spec_of_tensors([*FACTORS, "model.odd"], LoraSpec(rank=4, alpha=8.0), Path())
