"""The configuration of a file is that of the Hugging Face model."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import gguf
import pytest
import transformers as hf
from transformers import LlamaConfig

from helpers.gguf.files import header, text
from helpers.gguf.models import CASES, SIZES, saved_model, write_file
from helpers.support import smollm2_gguf
from veneer.errors import ModelError
from veneer.io.gguf.config import Described, describe, family_in, read_config
from veneer.io.gguf.header import GgufHeader, TensorInfo
from veneer.io.gguf.metadata import Metadata
from veneer.io.gguf.names import pieces
from veneer.io.gguf.reader import GgufCheckpoint
from veneer.model.families.choose import spec_from_hf
from veneer.model.shape import RopeKind


def test_the_configuration_of_smollm2_is_read_from_its_metadata() -> None:
    model = GgufCheckpoint(smollm2_gguf())
    assert model.config == {
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 576, "intermediate_size": 1536,
        "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3, "head_dim": 64,
        "hidden_act": "silu", "rms_norm_eps": 1e-5, "rope_theta": 100000.0, "rope_scaling": None,
        "max_position_embeddings": 8192, "vocab_size": 49152, "attention_bias": False, "mlp_bias": False,
        "tie_word_embeddings": True, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2,
    }  # fmt: skip
    assert LlamaConfig(**model.config).head_dim == 64
    assert model.generation_config == {"eos_token_id": [0, 2]}
    assert model.files() == [smollm2_gguf()]


def test_other_architectures_are_named(tmp_path: Path) -> None:
    pair = text(b"general.architecture") + struct.pack("<I", 8) + text(b"bloom")
    (tmp_path / "m.gguf").write_bytes(header(pair, counts=(0, 1)))
    with pytest.raises(ModelError, match=r"architecture 'bloom'; Veneer reads GGUF files of command-r, "):
        GgufCheckpoint(tmp_path / "m.gguf")
    with pytest.raises(ModelError, match="cannot be read"):
        GgufCheckpoint(tmp_path / "absent.gguf")


@pytest.mark.parametrize("kind", ["adapter", "mmproj", 3])
def test_a_file_that_holds_no_model_is_refused_by_its_type(kind: object) -> None:
    with pytest.raises(ModelError, match=rf"m\.gguf has no model: its general\.type is {kind!r}"):
        family_in(Path("m.gguf"), {"general.architecture": "llama", "general.type": kind})
    for known in ({"general.type": "model"}, {}):
        assert family_in(Path("m.gguf"), {"general.architecture": "llama", **known}).architecture == "llama"


def test_a_file_of_a_vocabulary_alone_and_one_that_lacks_layers_are_told_apart() -> None:
    values = {"general.architecture": "llama", "llama.block_count": 32}
    family = family_in(Path("m.gguf"), values)
    meta = Metadata(Path("m.gguf"), values, "llama")
    with pytest.raises(ModelError, match=r"m\.gguf has no tensors, as files that hold a vocabulary alone: name a file"):
        read_config(family, meta, GgufHeader(3, values, {}))
    one = {"a": TensorInfo("a", (1,), gguf.GGMLQuantizationType.F32, 0, 4)}
    with pytest.raises(ModelError, match=r"block_count is 32, and the file has 1 tensors: layers are missing"):
        read_config(family, meta, GgufHeader(3, values, one))


def test_a_sliding_window_that_llama_cpp_lacks_ends_the_context(tokenizer: Path, tmp_path: Path) -> None:
    config = hf.MistralConfig(**SIZES, sliding_window=100)
    _, checkpoint = saved_model(config, tmp_path / "model")
    written = write_file(tmp_path / "model.gguf", checkpoint, tokenizer)
    assert GgufCheckpoint(tmp_path / "model.gguf").config["max_position_embeddings"] == 100
    assert "the context ends at 100 tokens instead of 256" in written.notes[0]
    assert describe(hf.Qwen2Config(**SIZES, sliding_window=100).to_dict()).notes == ()  # not in use there


PUBLISHED: dict[str, dict[str, Any]] = {
    "gemma3": {
        "model_type": "gemma3_text", "hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "sliding_window": 1024,
    },
    **{
        kind: {key: size for key, size in SIZES.items() if key != "num_key_value_heads"}
        | {"model_type": kind, "num_attention_heads": 8, "rms_norm_eps": 1e-5, "head_dim": 256}
        for kind in ("mistral", "gemma2", "smollm3")
    },
}  # fmt: skip
"""Configurations that leave out what is transformers' default, as Gemma 3 is published from 4B on."""


@pytest.mark.parametrize("case", PUBLISHED)
def test_sizes_that_a_configuration_leaves_out_are_those_of_transformers(case: str) -> None:
    config = PUBLISHED[case]
    whole = hf.AutoConfig.for_model(**config).to_dict()
    found = describe(config)
    assert found.values == describe(whole).values
    spec = spec_from_hf(config)
    heads = [found.config[key] for key in ("num_attention_heads", "num_key_value_heads", "vocab_size")]
    assert heads == [spec.num_heads, spec.num_kv_heads, spec.vocab_size]


REFUSED: dict[str, tuple[Any, str]] = {
    "gemma2 scalar": (
        lambda: hf.Gemma2Config(**SIZES, head_dim=32, query_pre_attn_scalar=64), "query_pre_attn_scalar: 64"
    ),
    "gemma2 cap": (
        lambda: hf.Gemma2Config(**SIZES, head_dim=32, query_pre_attn_scalar=32, attn_logit_softcapping=None),
        "attn_logit_softcapping is None",
    ),
    "activation": (lambda: hf.LlamaConfig(**SIZES, hidden_act="relu"), "hidden_act: 'relu'"),
    "untied cohere": (lambda: hf.CohereConfig(**SIZES, tie_word_embeddings=False), "tie_word_embeddings: false"),
    "qk norms": (lambda: hf.CohereConfig(**SIZES, use_qk_norm=True), "use_qk_norm: True"),
    "biases": (lambda: hf.Qwen3Config(**SIZES, attention_bias=True), "no place for these biases"),
    "no rope": (lambda: hf.SmolLM3Config(**SIZES, no_rope_layer_interval=2), "no_rope_layers"),
    "dynamic rope": (
        lambda: hf.LlamaConfig(
            **SIZES, rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
        ),
        "rope scaling 'dynamic'",
    ),
    "llama3 rope": (
        lambda: hf.Qwen2Config(**SIZES, rope_parameters=CASES["llama3 rope"]().rope_parameters),
        "rope scaling 'llama3' is not known to llama.cpp for this architecture",
    ),
    "yarn range": (
        lambda: hf.Qwen2Config(**SIZES, rope_parameters=CASES["qwen2 yarn"]().rope_parameters | {"beta_slow": 4.0}),
        "yarn's beta_slow: 4.0, but llama.cpp always uses 1, regardless of the file",
    ),
    "gpt-oss's scaling, since none is named": (
        lambda: hf.GptOssConfig(**SIZES, head_dim=32), r"yarn without truncation \(truncate: false\)"
    ),
    "gpt-oss gate": (lambda: hf.GptOssConfig(**SIZES, swiglu_alpha=2.0), "swiglu_alpha: 2.0"),
    "gpt-oss biases": (lambda: hf.GptOssConfig(**SIZES, attention_bias=False), "attention_bias: False"),
    "family": (lambda: hf.GPTNeoXConfig(), "model_type 'gpt_neox' is not written to GGUF"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_llama_cpp_would_compute_otherwise_is_refused(case: str) -> None:
    config, message = REFUSED[case]
    with pytest.raises(ModelError, match=message):
        describe(config().to_dict())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_position_embeddings": 1 << 32}, r"context_length would be 4294967296, and GGUF holds whole numbers up"),
        ({"rope_theta": 1e39}, r"base of rotary positions is 1e\+39; GGUF needs a number above 0, up to 3\.4e\+38"),
        ({"rms_norm_eps": 1e39}, r"layer_norm_rms_epsilon would be 1e\+39, and GGUF holds numbers up to 3\.4e\+38"),
        ({"rope_scaling": {"full_attention": 5}}, "settings of rotary positions are 5; a group of settings is needed"),
        ({"rope_local_base_freq": "x"}, "base of rotary positions is 'x'"),
        ({"model_type": "mistral", "sliding_window": "x"}, "sliding_window is 'x'; it must be a whole number"),
        ({"model_type": "gemma3_text", "sliding_window_pattern": "x"}, "sliding_window_pattern is 'x'; it must be"),
    ],
)
def test_values_that_gguf_has_no_place_for_are_refused_by_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        describe({"model_type": "llama", "rms_norm_eps": 1e-5, **SIZES, **changes})


def test_settings_of_another_family_are_not_looked_at() -> None:
    """transformers, and training here, read none of these."""
    for kind, changes in (("gemma2", {"sliding_window_pattern": "x"}), ("llama", {"sliding_window": 7})):
        config = {"model_type": kind, "rms_norm_eps": 1e-5, "head_dim": 256, **SIZES}
        assert describe(config | changes).values == describe(config).values
    assert spec_from_hf(config | changes) == spec_from_hf(config)


def test_a_context_of_null_is_the_default() -> None:
    config = {"model_type": "llama", "rms_norm_eps": 1e-5, **SIZES}
    assert describe(config | {"max_position_embeddings": None}).values["llama.context_length"] == 2048


def test_all_reasons_are_named_at_once() -> None:
    config = hf.SmolLM3Config(**SIZES, attention_bias=True, mlp_bias=True, hidden_act="gelu").to_dict()
    with pytest.raises(ModelError) as error:
        describe(config)
    for part in ("attention_bias", "mlp_bias", "hidden_act", "--to merged"):
        assert part in str(error.value)


def test_what_llama_cpp_assumes_is_read_so(tokenizer: Path, tmp_path: Path) -> None:
    """Files of Gemma 2 from before its keys, of Phi-3 with its window, and of OLMo-3 under OLMo-2's name."""
    config = CASES["gemma2"]()
    described = describe(config.to_dict())
    old = {key: value for key, value in described.values.items() if "softcapping" not in key and "window" not in key}
    header = GgufHeader(3, old | {"tokenizer.ggml.bos_token_id": 3}, _tensors(described))
    read = read_config(described.family, Metadata(tmp_path / "f", header.metadata, "gemma2"), header)
    assert [read[key] for key in ("sliding_window", "attn_logit_softcapping", "bos_token_id")] == [4096, 50.0, 3]

    described = describe(hf.Phi3Config(**SIZES, sliding_window=100).to_dict())
    assert described.values["phi3.context_length"] == 100
    header = GgufHeader(3, dict(described.values), _tensors(described))
    read = read_config(described.family, Metadata(tmp_path / "f", header.metadata, "phi3"), header)
    assert read["sliding_window"] == 100

    described = describe(CASES["olmo2"]().to_dict())
    header = GgufHeader(3, described.values | {"olmo2.attention.sliding_window": 64}, _tensors(described))
    with pytest.raises(ModelError, match=r"olmo2\.attention\.sliding_window: a model of another kind"):
        read_config(described.family, Metadata(tmp_path / "f", header.metadata, "olmo2"), header)


def test_longrope_is_known_by_its_lists(tokenizer: Path, tmp_path: Path) -> None:
    """llama.cpp's converter names no type of scaling for Phi-3 and Phi-4-mini."""
    _, checkpoint = saved_model(CASES["phi3 longrope"](), tmp_path / "model")
    write_file(tmp_path / "whole.gguf", checkpoint, tokenizer)
    whole = GgufCheckpoint(tmp_path / "whole.gguf").config
    content = (tmp_path / "whole.gguf").read_bytes()
    # Another key of the length is nobody's key, so that the offsets of the tensors stay.
    (tmp_path / "typeless.gguf").write_bytes(content.replace(b"phi3.rope.scaling.type", b"phi3.rope.scaling.none"))
    typeless = GgufCheckpoint(tmp_path / "typeless.gguf").config
    assert typeless == whole
    assert typeless["rope_scaling"]["rope_type"] == "longrope"
    assert spec_from_hf(typeless).rope.kind is RopeKind.LONGROPE
    (tmp_path / "half.gguf").write_bytes(content.replace(b"rope_factors_long.weight", b"rope_factors_lost.weight"))
    with pytest.raises(ModelError, match=r"LongRoPE's scaling, but lacks the tensor rope_factors_long\.weight"):
        GgufCheckpoint(tmp_path / "half.gguf")


@pytest.mark.parametrize("share", [0.25, 0.5, 1.0])
@pytest.mark.parametrize("model_type", ["stablelm", "phi3"])
def test_the_turned_share_of_a_head_is_the_files(model_type: str, share: float, tmp_path: Path) -> None:
    config = {**SIZES, "model_type": model_type, "partial_rotary_factor": share, "rms_norm_eps": 1e-5}
    described = describe(config)
    header = GgufHeader(3, dict(described.values), _tensors(described))
    read = read_config(described.family, Metadata(tmp_path / "f", header.metadata, model_type), header)
    assert read["partial_rotary_factor"] == share
    assert spec_from_hf(read).rope.turned(16) == 16 * share


def test_gpt_oss_without_scaling_says_so(tmp_path: Path) -> None:
    """A config.json without scaling would be one with gpt-oss' own."""
    config = {**SIZES, "model_type": "gpt_oss", "head_dim": 32, "num_local_experts": 4, "num_experts_per_tok": 2}
    with pytest.raises(ModelError, match="yarn without truncation"):
        describe(config | {"rope_scaling": None})
    described = describe(config | {"rms_norm_eps": 1e-5, "rope_scaling": {"rope_type": "default"}})
    header = GgufHeader(3, dict(described.values), _tensors(described))
    read = read_config(described.family, Metadata(tmp_path / "f", header.metadata, "gpt-oss"), header)
    assert read["rope_scaling"] == {"rope_type": "default"}
    assert hf.GptOssConfig(**read).rope_parameters["rope_type"] == "default"
    assert spec_from_hf(read).rope.kind is RopeKind.DEFAULT


def _tensors(described: Described) -> dict[str, TensorInfo]:
    parts = pieces(described.family.names, described.config)
    return {one.name: TensorInfo(one.name, one.shape, gguf.GGMLQuantizationType.F32, 0, 0) for one in parts}
