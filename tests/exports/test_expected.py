from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from helpers.models.tiny_models import documents, largest_difference, packed_logits
from veneer.errors import ModelError
from veneer.exports.expected import ExpectedCheckpoint, dense_config, model_of
from veneer.exports.tensors import MemoryTensors, ModelTensors
from veneer.io.checkpoint import open_checkpoint
from veneer.loading.how import Loading
from veneer.loading.load import load_model
from veneer.quant.four_bit import QuantLinear
from veneer.quantization import quantize


def expected(model: Path, scale: float = 1.0) -> ExpectedCheckpoint:
    checkpoint = open_checkpoint(model)
    tensors = {name: scale * tensor for name, tensor in load_file(model / "model.safetensors").items()}
    return ExpectedCheckpoint(
        dense_config(checkpoint.config), checkpoint.generation_config, MemoryTensors(tensors), checkpoint.tokenizer()
    )


@torch.no_grad()
def test_the_expected_model_computes_what_its_tensors_say(tiny_model: Path) -> None:
    texts = documents([7, 20], vocab=200)
    found = model_of(expected(tiny_model), torch.device("cpu"))
    loaded = load_model(open_checkpoint(tiny_model), Loading(dtype=torch.float32)).eval()
    assert torch.equal(packed_logits(found.model, texts), packed_logits(loaded, texts))
    other = model_of(expected(tiny_model, scale=1.1), torch.device("cpu"))
    assert largest_difference(packed_logits(other.model, texts), packed_logits(loaded, texts)) > 1e-2


@torch.no_grad()
def test_quantised_files_are_expected_decoded(tiny_model: Path, tmp_path: Path) -> None:
    quantize(str(tiny_model), tmp_path / "packed")
    checkpoint = open_checkpoint(tmp_path / "packed")
    assert "quantization_config" in checkpoint.config
    config = dense_config(checkpoint.config)
    assert config == {key: value for key, value in checkpoint.config.items() if key != "quantization_config"}
    files = ExpectedCheckpoint(config, {}, ModelTensors(checkpoint), checkpoint.tokenizer())
    name = "model.layers.0.self_attn.q_proj.weight"
    dense = load_file(tiny_model / "model.safetensors")[name]
    assert torch.equal(files.read(name, torch.float32), QuantLinear.from_weight(dense).dequantize(torch.float32))
    texts = documents([9], vocab=200)
    loaded = load_model(checkpoint, Loading(dtype=torch.float32)).eval()
    found = model_of(files, torch.device("cpu"))
    assert largest_difference(packed_logits(found.model, texts), packed_logits(loaded, texts)) < 1e-4


def test_it_stands_in_no_file_and_holds_nothing_quantised(tiny_model: Path) -> None:
    files = expected(tiny_model)
    assert (files.files(), dict(files.stored)) == ([], {})
    assert files.shape("model.norm.weight") == (64,)
    with pytest.raises(ModelError, match=r"model\.norm\.weight is not stored quantised"):
        files.read_stored("model.norm.weight")
