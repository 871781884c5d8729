"""Weights in the blocks of a GGUF file take its bytes, and train and answer as decoded ones."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
import torch

from helpers.models.damaged_checkpoints import LINEAR, in_blocks, linears, packed, retensor
from helpers.models.tiny import run_config, write_model
from veneer.assistant.assistant import make_assistant
from veneer.assistant.prompts import turns
from veneer.errors import ModelError
from veneer.generation.sampling import Sampling
from veneer.io.checkpoint import open_checkpoint
from veneer.io.gguf.reader import GgufCheckpoint
from veneer.loading.how import Loading
from veneer.loading.load import load_model
from veneer.loading.stored import packed_layer
from veneer.model.leaves import DenseLinear
from veneer.native.library import kernels
from veneer.quant.blocks import BlockLinear
from veneer.quant.four_bit import QuantConfig, QuantLinear
from veneer.quantization import stored_weight
from veneer.training.run import train


@pytest.mark.parametrize("kind", ["q4_0", "q8_0"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_gguf_base_takes_the_bytes_of_its_file(
    kind: str, dtype: torch.dtype, tiny_model: Path, tmp_path: Path
) -> None:
    if kernels() is None:
        pytest.skip("this machine has no compiled kernels")
    checkpoint = open_checkpoint(in_blocks(tiny_model, tmp_path, kind))
    assert isinstance(checkpoint, GgufCheckpoint)
    frozen = load_model(checkpoint, Loading(dtype=dtype))
    held = linears(frozen)
    assert all(isinstance(module, BlockLinear) for module in held.values())
    tensors = checkpoint.header.tensors
    own = sum(info.nbytes for name, info in tensors.items() if name.startswith("blk.") and len(info.shape) > 1)
    assert sum(module.nbytes for module in held.values() if isinstance(module, BlockLinear)) == own
    for path, module in held.items():
        assert torch.equal(cast(BlockLinear, module).dequantize(dtype), checkpoint.read(f"{path}.weight", dtype))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", ["q4_0", "q8_0"])
def test_a_gguf_base_in_blocks_trains_and_answers_as_a_decoded_one(
    kind: str, dtype: str, tiny_model: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kernels() is None:
        pytest.skip("this machine has no compiled kernels")
    file = in_blocks(tiny_model, tmp_path, kind)
    settings = ("method=lora", "train.steps=4", "lora.dropout=0.1", f"compute.dtype={dtype}")
    with monkeypatch.context() as patch:
        patch.setattr("veneer.loading.forms.reads_blocks", lambda *_: False)
        decoded = train(run_config(file, tiny_data, tmp_path / "decoded", *settings))
    kept = train(run_config(file, tiny_data, tmp_path / "kept", *settings))
    assert isinstance(kept.model.get_submodule(f"{LINEAR}.base"), BlockLinear)
    assert isinstance(decoded.model.get_submodule(f"{LINEAR}.base"), DenseLinear)
    name = "adapter_model.safetensors"
    assert (tmp_path / "kept" / name).read_bytes() == (tmp_path / "decoded" / name).read_bytes()
    if dtype == "bfloat16":
        return  # answers are computed with the weights before they are rounded
    asked = [turns(None, "What is the parcel number?"), turns(None, "late")]
    answers = [
        make_assistant(run.model, open_checkpoint(file), run.trainable.adapter).answers(  # type: ignore[attr-defined]
            asked, Sampling(max_new_tokens=12)
        )
        for run in (kept, decoded)
    ]
    assert answers[0] == answers[1]


@pytest.mark.parametrize("part", ["lm_head.weight", "lm_head.weight.absmax"])
def test_parts_that_do_not_fit_each_other_are_named(part: str, tmp_path: Path) -> None:
    checkpoint = packed(write_model(tmp_path / "model", tied=False), "lm_head.weight")
    short = checkpoint.read_stored("lm_head.weight")
    halves = {"lm_head.weight": short.codes[:-1].view(-1, 1), "lm_head.weight.absmax": short.scales[:-1]}
    checkpoint = retensor(tmp_path / "model", {part: halves[part]})
    with pytest.raises(ModelError, match=r"lm_head\.weight is damaged: .* must be .*Download"):
        packed_layer("lm_head.weight", checkpoint.read_stored("lm_head.weight"))


@pytest.mark.parametrize("shape", [(), (64,), (2, 4, 8)])
def test_a_quantised_weight_that_is_no_matrix_is_refused_by_name_and_shape(shape: tuple[int, ...]) -> None:
    stored = stored_weight(QuantLinear.from_weight(torch.ones(8, 8), config=QuantConfig(double_quant=False)))
    odd = replace(stored, format=replace(stored.format, shape=shape))
    with pytest.raises(ModelError, match=re.escape(f"model.norm.weight is damaged: its shape is {list(shape)}, and")):
        packed_layer("model.norm.weight", odd)
