from __future__ import annotations

from typing import Any

import pytest
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from veneer.errors import ModelError
from veneer.io.text_part import COMPOSITE, text_config, text_name

OWN = {"hidden_size": 64, "tie_word_embeddings": False}


def test_a_text_only_configuration_is_itself() -> None:
    config = {"model_type": "gemma3_text", "text_config": {"hidden_size": 1}}
    assert text_config(config) is config


def test_settings_of_the_whole_apply_unless_the_text_model_has_its_own() -> None:
    config: dict[str, Any] = {
        "model_type": "gemma3", "text_config": OWN, "eos_token_id": [1, 106], "tie_word_embeddings": True,
        "torch_dtype": "bfloat16", "vision_config": {"hidden_size": 9}, "mm_tokens_per_image": 256,
    }  # fmt: skip
    assert text_config(config) == {
        "model_type": "gemma3_text", "hidden_size": 64, "tie_word_embeddings": False, "eos_token_id": [1, 106],
        "torch_dtype": "bfloat16", "architectures": ["Gemma3ForCausalLM"],
    }  # fmt: skip


@pytest.mark.parametrize("kind", COMPOSITE)
def test_the_text_model_names_its_class_as_transformers_does(kind: str) -> None:
    whole = {"model_type": kind, "architectures": ["WithAVisionTower"], "text_config": {"architectures": None}}
    config = text_config(whole)
    assert config["architectures"] == [MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[config["model_type"]]]
    whole["text_config"] = {"architectures": ["Another"], "model_type": "another"}
    assert text_config(whole) == whole["text_config"]


@pytest.mark.parametrize("value", [None, 3, []])
def test_a_composite_model_without_a_text_model_is_refused(value: object) -> None:
    with pytest.raises(ModelError, match="'gemma3' has no text_config"):
        text_config({"model_type": "gemma3", "text_config": value})


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("language_model.model.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.up_proj.weight"),
        ("model.language_model.norm.weight", "model.norm.weight"),
        ("language_model.lm_head.weight", "lm_head.weight"),
        ("lm_head.weight", "lm_head.weight"),
        ("vision_tower.encoder.layers.0.weight", None),
        ("model.vision_tower.encoder.weight", None),
        ("model.multi_modal_projector.norm.weight", None),
    ],
)
def test_names_of_both_generations_of_files_are_those_of_the_text_model(name: str, own: str | None) -> None:
    assert text_name(name) == own
