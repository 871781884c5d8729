from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import GptOssConfig

from helpers.models.tiny_mixtures import KINDS, SHAPES, tiny_mixture
from veneer.errors import ModelError
from veneer.loading.expected import expected_tensors
from veneer.model.families.choose import spec_from_hf
from veneer.model.mixture import Routing


@pytest.mark.parametrize("kind", KINDS)
def test_sizes_and_windows_are_those_of_transformers_configuration(kind: str) -> None:
    theirs = tiny_mixture(kind, num_experts_per_tok=3).config
    spec = spec_from_hf(theirs.to_dict())
    assert spec.mixture is not None
    inner = theirs.moe_intermediate_size if kind == "qwen3_moe" else theirs.intermediate_size
    assert (spec.mixture.experts, spec.mixture.top_k, spec.mixture.inner) == (4, 3, inner)
    windows = [layer.attention_spec.window for layer in spec.layers]
    assert windows == ([6, None] if kind == "gpt_oss" else [None, None])
    assert spec.sinks is spec.mixture.bias is spec.mixture.interleaved is (kind == "gpt_oss")


def test_the_number_of_experts_is_read_under_both_of_its_names() -> None:
    theirs = tiny_mixture("qwen3_moe").config.to_dict()
    count = theirs.pop("num_experts", None) or theirs.pop("num_local_experts")
    named = [spec_from_hf(theirs | {key: count}) for key in ("num_experts", "num_local_experts")]
    assert named[0] == named[1]


@pytest.mark.parametrize("step", [1, 2, 3])
@pytest.mark.parametrize("named", [[], [0, 4]])
def test_layers_without_experts_are_those_in_which_transformers_has_none(step: int, named: list[int]) -> None:
    changes = {"decoder_sparse_step": step, "mlp_only_layers": named, "num_hidden_layers": 5}
    theirs = tiny_mixture("qwen3_moe", **changes)
    spec = spec_from_hf(theirs.config.to_dict()).mixture
    assert spec is not None
    sparse = {int(name.split(".")[2]) for name, _ in theirs.named_parameters() if ".experts." in name}
    assert spec.layers(5) == sorted(sparse)


@pytest.mark.parametrize("layers", [None, "", [1], {}])
def test_a_number_of_layers_that_is_none_is_refused(layers: Any) -> None:
    config = tiny_mixture("qwen3_moe").config.to_dict()
    with pytest.raises(ModelError, match="num_hidden_layers: "):
        spec_from_hf(config | {"num_hidden_layers": layers})


@pytest.mark.parametrize(("normed", "routing"), [(True, Routing.RENORMALISED), (False, Routing.PLAIN)])
def test_qwen_says_whether_weights_are_divided_by_their_sum(normed: bool, routing: Routing) -> None:
    spec = spec_from_hf(tiny_mixture("qwen3_moe", norm_topk_prob=normed).config.to_dict()).mixture
    assert spec is not None
    assert spec.routing is routing


def test_the_published_mixtral_has_its_number_of_weights() -> None:
    mixtral: dict[str, Any] = {
        "model_type": "mixtral", "hidden_size": 4096, "intermediate_size": 14336, "num_attention_heads": 32,
        "num_hidden_layers": 32, "num_key_value_heads": 8, "num_local_experts": 8, "num_experts_per_tok": 2,
        "rms_norm_eps": 1e-05, "rope_theta": 1000000.0, "vocab_size": 32000, "sliding_window": None,
        "tie_word_embeddings": False, "max_position_embeddings": 32768, "hidden_act": "silu",
        "router_aux_loss_coef": 0.02, "output_router_logits": False,
    }  # fmt: skip
    count = sum(torch.Size(shape).numel() for shape in expected_tensors(spec_from_hf(mixtral)).values())
    assert count == 46_702_792_704


def test_the_published_gpt_oss_has_its_number_of_weights() -> None:
    oss: dict[str, Any] = {
        "model_type": "gpt_oss", "attention_bias": True, "experts_per_token": 4, "head_dim": 64, "hidden_act": "silu",
        "hidden_size": 2880, "initial_context_length": 4096, "intermediate_size": 2880,
        "max_position_embeddings": 131072, "num_attention_heads": 64, "num_experts_per_tok": 4,
        "num_hidden_layers": 24, "num_key_value_heads": 8, "num_local_experts": 32, "rms_norm_eps": 1e-05,
        "rope_scaling": {
            "beta_fast": 32.0, "beta_slow": 1.0, "factor": 32.0, "original_max_position_embeddings": 4096,
            "rope_type": "yarn", "truncate": False,
        },
        "rope_theta": 150000, "sliding_window": 128, "swiglu_limit": 7.0, "tie_word_embeddings": False,
        "vocab_size": 201088, "layer_types": ["sliding_attention", "full_attention"] * 12,
    }  # fmt: skip
    count = sum(torch.Size(shape).numel() for shape in expected_tensors(spec_from_hf(oss)).values())
    assert count == 20_914_757_184


@pytest.mark.parametrize("scaling", [{}, {"rope_scaling": None}, {"rope_scaling": {"rope_type": "default"}}])
def test_gpt_oss_without_scaling_has_the_one_of_transformers(scaling: dict[str, Any]) -> None:
    own = SHAPES | {"num_local_experts": 4, "rope_theta": 1e4} | scaling
    assert spec_from_hf(own | {"model_type": "gpt_oss"}) == spec_from_hf(GptOssConfig(**own).to_dict())


@pytest.mark.parametrize(
    ("kind", "changes", "named"),
    [
        ("mixtral", {"num_local_experts": 0}, "num_local_experts: 0"),
        ("mixtral", {"num_experts_per_tok": 9}, "num_experts_per_tok: 9, of 4 experts"),
        ("qwen3_moe", {"moe_intermediate_size": None}, "moe_intermediate_size: None"),
        ("qwen3_moe", {"mlp_only_layers": "0"}, "mlp_only_layers '0'"),
        ("gpt_oss", {"swiglu_limit": -1.0}, "swiglu_limit of config.json is -1.0"),
    ],
)
def test_settings_that_cannot_be_are_refused_by_name(kind: str, changes: dict[str, Any], named: str) -> None:
    config = tiny_mixture(kind).config.to_dict() | changes
    with pytest.raises(ModelError, match=named):
        spec_from_hf(config)
