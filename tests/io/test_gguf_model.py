"""GGUF files of every family: our reader gets the model back, and llama.cpp computes what transformers does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
import transformers as hf
from gguf.quants import dequantize
from tokenizers import Regex, pre_tokenizers

from gguf_models import CASES, SIZES, llama_cpp_gap, saved_model, write_file
from tiny import chat_tokenizer, write_model
from veneer.errors import ModelError, OutputError
from veneer.io.checkpoint import open_checkpoint
from veneer.io.gguf.encode import Quant
from veneer.io.gguf.families import describe
from veneer.io.gguf.model import needed
from veneer.io.gguf.model import write_model as write
from veneer.io.gguf.reader import GgufCheckpoint
from veneer.io.gguf.vocabulary import write_vocabulary
from veneer.io.gguf.writer import GgufWriter, Planned
from veneer.io.tokenizer import from_directory

TABLED_GELU = 2e-3
"""llama.cpp reads GELU from a table in float16, which Gemma's models show."""
EXACT = 2e-5
FREE = {"transformers_version", "architectures", "dtype", "use_cache", "_name_or_path"}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("tokenizer") / "model")


@pytest.mark.parametrize("case", CASES)
def test_every_family_is_the_same_model(case: str, tokenizer: Path, tmp_path: Path) -> None:
    config = CASES[case]()
    model, checkpoint = saved_model(config, tmp_path / "model")
    file = tmp_path / "model.gguf"
    written = write_file(file, checkpoint, tokenizer)
    assert set(written.kinds) == {"F32"}
    back = GgufCheckpoint(file)
    for name in needed(checkpoint.config):
        found, expected = back.read(name, torch.float32), checkpoint.read(name, torch.float32)
        if case.startswith("gemma") and "norm" in name:
            assert torch.allclose(found, expected, rtol=0, atol=1.2e-7)  # 1 + w − 1
        else:
            assert torch.equal(found, expected), name
    theirs, ours = config.to_dict(), type(config)(**back.config).to_dict()
    free = FREE | {"bos_token_id", "pad_token_id"}  # the tokenizer's, which names neither
    free |= {"tie_word_embeddings"} if case == "olmo2 tied" else set()
    free |= {"sliding_window"} if case == "mistral" else set()
    assert {key: ours.get(key) for key in theirs if key not in free} == {
        key: value for key, value in theirs.items() if key not in free
    }
    pytest.importorskip("xllamacpp", reason="xllamacpp is not installed: llama.cpp is the reference")
    assert llama_cpp_gap(file, model) < (TABLED_GELU if case.startswith("gemma") else EXACT)


@pytest.mark.parametrize("quant", list(Quant), ids=lambda quant: quant.value)
def test_every_type_is_read_back_as_gguf_reads_it(quant: Quant, tokenizer: Path, tmp_path: Path) -> None:
    """A width of 576 and one of 512: Q4_K_M needs other types for the first."""
    config = hf.Qwen3Config(**{**SIZES, "hidden_size": 576, "intermediate_size": 512}, head_dim=64)
    _, checkpoint = saved_model(config, tmp_path / "model")
    written = write_file(tmp_path / "model.gguf", checkpoint, tokenizer, quant)
    back = GgufCheckpoint(tmp_path / "model.gguf")
    reader = {tensor.name: tensor for tensor in gguf.GGUFReader(str(tmp_path / "model.gguf")).tensors}
    assert len(reader) == written.tensors
    theirs = reader["blk.0.ffn_down.weight"]
    ours = back.read("model.layers.0.mlp.down_proj.weight", torch.float32)
    assert np.array_equal(dequantize(theirs.data, theirs.tensor_type).reshape(576, 512), ours.numpy())
    for name in needed(checkpoint.config):
        found, expected = back.read(name, torch.float32), checkpoint.read(name, torch.float32)
        limit = {Quant.F32: 0.0, Quant.F16: 5e-4, Quant.BF16: 4e-3, Quant.Q8_0: 8e-3, Quant.Q4_0: 0.11}.get(quant, 0.09)
        assert float((found - expected).norm()) <= limit * float(expected.norm()), name
    assert bool(written.notes) is (quant is Quant.Q4_K_M)
    if quant is Quant.Q4_K_M:
        assert set(written.kinds) == {"Q5_0", "Q8_0", "Q4_K", "Q6_K", "F32"}
        assert "rows of 576 are no multiples of 256" in written.notes[0]
    assert reader["blk.0.attn_q_norm.weight"].tensor_type == gguf.GGMLQuantizationType.F32


def test_llama_cpp_opens_every_type(tokenizer: Path, tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp", reason="xllamacpp is not installed: llama.cpp is the reference")
    config = hf.LlamaConfig(**{**SIZES, "hidden_size": 256, "intermediate_size": 512}, head_dim=64)
    model, checkpoint = saved_model(config, tmp_path / "model")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.3)
    model.save_pretrained(tmp_path / "model")  # type: ignore[operator]
    checkpoint = open_checkpoint(tmp_path / "model")
    for quant, limit in (
        (Quant.F16, 0.01),
        (Quant.BF16, 0.05),
        (Quant.Q8_0, 0.1),
        (Quant.Q4_0, 1.0),
        (Quant.Q4_K_M, 1.0),
    ):
        file = tmp_path / f"{quant.value}.gguf"
        written = write_file(file, checkpoint, tokenizer, quant)
        assert llama_cpp_gap(file, model) < limit, quant
        if quant is Quant.Q4_K_M:
            assert set(written.kinds) == {"Q4_K", "Q6_K", "F32"}


def test_a_sliding_window_that_llama_cpp_lacks_ends_the_context(tokenizer: Path, tmp_path: Path) -> None:
    config = hf.MistralConfig(**SIZES, sliding_window=100)
    _, checkpoint = saved_model(config, tmp_path / "model")
    written = write_file(tmp_path / "model.gguf", checkpoint, tokenizer)
    assert GgufCheckpoint(tmp_path / "model.gguf").config["max_position_embeddings"] == 100
    assert "the context ends at 100 tokens instead of 256" in written.notes[0]
    assert describe(hf.Qwen2Config(**SIZES, sliding_window=100).to_dict()).notes == ()  # not in use there


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
    "family": (lambda: hf.GPTNeoXConfig(), "model_type 'gpt_neox' is not written to GGUF"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_llama_cpp_would_compute_otherwise_is_refused(case: str) -> None:
    config, message = REFUSED[case]
    with pytest.raises(ModelError, match=message):
        describe(config().to_dict())


def test_all_reasons_are_named_at_once() -> None:
    config = hf.SmolLM3Config(**SIZES, attention_bias=True, mlp_bias=True, hidden_act="gelu").to_dict()
    with pytest.raises(ModelError) as error:
        describe(config)
    for part in ("attention_bias", "mlp_bias", "hidden_act", "--to merged"):
        assert part in str(error.value)


# ---------------------------------------------------------------------------------------------------------- tokenizers


def test_a_pre_tokenizer_that_llama_cpp_lacks_is_refused(tmp_path: Path) -> None:
    backend = chat_tokenizer()
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex("[aeiou]"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    folder = write_model(tmp_path / "model")
    backend.save(str(folder / "tokenizer.json"))
    with pytest.raises(ModelError, match=r"\[aeiou\](.|\n)*llama-bpe(.|\n)*--to merged"):
        write_vocabulary(from_directory(folder), 304)


def test_a_vocabulary_that_does_not_fit_is_refused(tokenizer: Path) -> None:
    with pytest.raises(ModelError, match="the embedding 299 rows"):
        write_vocabulary(from_directory(tokenizer), 299)


# -------------------------------------------------------------------------------------------------------------- writer


def test_the_writer_is_read_by_gguf(tmp_path: Path) -> None:
    values: Any = {
        "general.architecture": "llama", "a.flag": True, "a.count": 7, "a.number": 0.5, "a.text": "grüße",
        "a.list": [1, -2], "a.texts": ["x", ""], "a.none": [], "a.flags": [True, False], "a.numbers": [0.5],
    }  # fmt: skip
    tensors = [Planned("x", (3,), gguf.GGMLQuantizationType.F32), Planned("y", (2, 32), gguf.GGMLQuantizationType.Q8_0)]
    data = np.arange(68, dtype=np.uint8)
    with GgufWriter(tmp_path / "f.gguf", values, tensors) as file:
        file.write("y", data[34:], 34)
        file.write("x", np.arange(3, dtype=np.float32).view(np.uint8))
        file.write("y", data[:34])
    reader = gguf.GGUFReader(str(tmp_path / "f.gguf"))
    assert {name: reader.fields[name].contents() for name in values} == values
    assert np.array_equal(reader.tensors[0].data, [0, 1, 2])
    assert np.array_equal(reader.tensors[1].data.reshape(-1), data)


def test_missing_and_unplanned_tensors_are_refused(tokenizer: Path, tmp_path: Path) -> None:
    plan = [Planned("x", (3,), gguf.GGMLQuantizationType.F32)]
    with (
        pytest.raises(OutputError, match=r"(?s)planned and not written.*x: 12 bytes"),
        GgufWriter(tmp_path / "a", {}, plan),
    ):
        pass
    with pytest.raises(OutputError, match="not planned for"), GgufWriter(tmp_path / "b", {}, plan) as file:
        file.write("x", np.zeros(16, np.uint8))
    config = hf.LlamaConfig(**SIZES).to_dict()
    known = from_directory(tokenizer)
    with pytest.raises(ModelError, match="lacks tensors"):
        write(tmp_path / "c", config, known, [], Quant.F32)
    with pytest.raises(ModelError, match=r"no place for model\.layers\.0\.extra"):
        write(tmp_path / "d", config, known, [("model.layers.0.extra", torch.zeros(3))], Quant.F32)
    with pytest.raises(ModelError, match=r"embed_tokens\.weight is \[3\]"):
        write(tmp_path / "e", config, known, [("model.embed_tokens.weight", torch.zeros(3))], Quant.F32)
