from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import Gemma3Config, Gemma3ForConditionalGeneration, Gemma3TextConfig

from helpers.models.family_variants import GEMMA3, both_specs, refusal, variants_of
from helpers.models.tiny_models import (
    SHAPES,
    documents,
    largest_difference,
    packed_logits,
    randomised,
    saved,
    their_logits,
)
from veneer.loading.expected import expected_tensors
from veneer.loading.how import Loading
from veneer.loading.load import load_model
from veneer.model.families.choose import spec_from_hf

LENGTHS = [23, 1, 40, 9]
GEMMA3_FLAT = {"rope_parameters": {"rope_type": "default", "rope_theta": 1.0}}


@pytest.mark.parametrize("variant", variants_of("gemma2", "gemma3_text"))
def test_settings_that_are_left_out_are_those_of_transformers(variant: str) -> None:
    short, full, _ = both_specs(variant)
    assert short == full


@pytest.mark.parametrize("variant", variants_of("gemma2", "gemma3_text"))
def test_windows_scales_and_caps_are_what_the_configuration_says(variant: str) -> None:
    spec, _, theirs = both_specs(variant)
    windows = [theirs.sliding_window if kind == "sliding_attention" else None for kind in theirs.layer_types]
    assert [layer.attention_spec.window for layer in spec.layers] == windows
    assert {layer.attention_spec.scale for layer in spec.layers} == {theirs.query_pre_attn_scalar**-0.5}
    assert spec.scores.softcap == theirs.final_logit_softcapping
    if theirs.model_type == "gemma2":
        assert {layer.attention_spec.softcap for layer in spec.layers} == {theirs.attn_logit_softcapping}
    assert spec.embedding_scale == theirs.hidden_size**0.5


def test_gemma3_beside_a_vision_tower_is_read_as_its_text_model(tmp_path: Path) -> None:
    text = {**SHAPES, **GEMMA3, "tie_word_embeddings": True}
    tower = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
             "image_size": 28, "patch_size": 14}  # fmt: skip
    config = Gemma3Config(text_config=text, vision_config=tower, mm_tokens_per_image=4)
    theirs = randomised(Gemma3ForConditionalGeneration._from_config(config, attn_implementation="eager"), 3)
    checkpoint = saved(theirs, tmp_path)
    assert any("vision" in name for name in load_file(tmp_path / "model.safetensors"))
    model = load_model(checkpoint, Loading(dtype=torch.float32))
    assert (model.spec.model_type, checkpoint.config["model_type"]) == ("gemma3_text", "gemma3_text")
    assert checkpoint.names() == sorted(expected_tensors(model.spec))
    texts = documents(LENGTHS)
    with torch.no_grad():
        assert largest_difference(packed_logits(model, texts), their_logits(theirs, texts)) < 1e-4


def test_published_settings_of_gemma3_that_leave_out_defaults_are_filled_in() -> None:
    config = {"model_type": "gemma3_text", "hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34,
              "rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "sliding_window": 1024}  # fmt: skip
    theirs, spec = Gemma3TextConfig(**config), spec_from_hf(config)
    assert (spec.vocab_size, spec.num_heads, spec.num_kv_heads) == (
        theirs.vocab_size, theirs.num_attention_heads, theirs.num_key_value_heads)  # fmt: skip
    assert (spec.head_dim, spec.norm_eps, spec.tied_head) == (theirs.head_dim, theirs.rms_norm_eps, True)
    assert [layer.attention_spec.window for layer in spec.layers] == [
        1024 if kind == "sliding_attention" else None for kind in theirs.layer_types]  # fmt: skip
    for layer, kind in zip(spec.layers, theirs.layer_types, strict=True):
        assert layer.rope is not None
        assert layer.rope.theta == theirs.rope_parameters[kind]["rope_theta"]
        assert layer.rope.kind.value == theirs.rope_parameters[kind]["rope_type"]


@pytest.mark.parametrize(
    ("model_type", "changes", "words"),
    [
        ("gemma2", {"use_bidirectional_attention": True}, ["use_bidirectional_attention: True"]),
        ("gemma2", {"attn_logit_softcapping": -1.0}, ["attn_logit_softcapping", "-1.0"]),
        ("gemma3_text", {"attn_logit_softcapping": 50.0}, ["attn_logit_softcapping: 50.0"]),
        ("gemma3_text", {"sliding_window_pattern": 0.5}, ["sliding_window_pattern", "0.5", "whole number"]),
        ("gemma3_text", GEMMA3_FLAT, ["full_attention", "sliding_attention"]),
        ("gemma3_text", {"rope_parameters": 10**400}, ["it must have a group 'full_attention'"]),
        ("gemma3_text", {"rope_parameters": True}, ["it must have a group 'full_attention'"]),
    ],
)
def test_what_is_not_computed_is_refused(model_type: str, changes: dict[str, Any], words: list[str]) -> None:
    message = refusal(model_type, changes)
    assert [word for word in words if word not in message] == []
