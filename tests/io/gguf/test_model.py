"""GGUF files of every family: our reader gets the model back, and llama.cpp computes what transformers does."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
import transformers as hf
from gguf.quants import dequantize

from helpers.gguf.models import CASES, SIZES, llama_cpp_gap, saved_model, write_file
from veneer.io.checkpoint import open_checkpoint
from veneer.io.gguf.encode import Quant
from veneer.io.gguf.model import needed
from veneer.io.gguf.model import write_model as write
from veneer.io.gguf.reader import GgufCheckpoint
from veneer.io.tokenizer import from_directory

TABLED_GELU = 2e-3
"""llama.cpp reads GELU from a table in float16, which Gemma's models show."""
EXACT = 2e-5
FREE = {"transformers_version", "architectures", "dtype", "use_cache", "_name_or_path"}


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


@pytest.mark.parametrize(
    "config",
    [
        hf.MixtralConfig(**SIZES, num_local_experts=1, num_experts_per_tok=1, sliding_window=None),
        hf.StableLmConfig(**{**SIZES, "num_key_value_heads": 1}, qk_layernorm=True),
    ],
    ids=["an expert", "a key head"],
)
def test_one_of_what_is_stacked_is_a_stack(config: Any, tokenizer: Path, tmp_path: Path) -> None:
    model, checkpoint = saved_model(config, tmp_path / "model")
    write_file(tmp_path / "model.gguf", checkpoint, tokenizer)
    back = GgufCheckpoint(tmp_path / "model.gguf")
    for name in needed(checkpoint.config):
        assert torch.equal(back.read(name, torch.float32), checkpoint.read(name, torch.float32)), name
    pytest.importorskip("xllamacpp", reason="xllamacpp is not installed: llama.cpp is the reference")
    assert llama_cpp_gap(tmp_path / "model.gguf", model) < EXACT


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
        assert "rows of 576 are not multiples of 256" in written.notes[0]
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


def test_one_tensor_is_held_at_a_time(tokenizer: Path, tmp_path: Path) -> None:
    _, checkpoint = saved_model(CASES["qwen3 moe"](), tmp_path / "model")
    given: list[weakref.ref[torch.Tensor]] = []

    def tensors() -> Iterator[tuple[str, torch.Tensor]]:
        # In another order than the file's: a tensor goes to its place, an expert into its part of one.
        for name in sorted(needed(checkpoint.config), reverse=True):
            assert sum(reference() is not None for reference in given) <= 1
            tensor = checkpoint.read(name, torch.float32)
            given.append(weakref.ref(tensor))
            yield name, tensor
            del tensor

    write(tmp_path / "a.gguf", checkpoint.config, from_directory(tokenizer), tensors(), Quant.Q8_0)
    write_file(tmp_path / "b.gguf", checkpoint, tokenizer, Quant.Q8_0)
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()
