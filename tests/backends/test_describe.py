"""A model is described alike from its files and from its config.json alone, whoever computes it."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from helpers.models.hf_models import write_hf_model
from veneer.backends.base import CAPABILITIES
from veneer.backends.describe import describe_model
from veneer.enums import Backend
from veneer.errors import ModelError
from veneer.io.checkpoint import open_checkpoint, read_model_config
from veneer.loading.load import load_model
from veneer.model.decoder import CausalLM
from veneer.model.hf_skeleton import HfSpec
from veneer.model.shape import DecoderSpec
from veneer.quantization import quantize


@pytest.mark.parametrize("wanted", [Backend.AUTO, Backend.HF])
def test_a_configuration_says_what_the_files_say(wanted: Backend, tiny_model: Path) -> None:
    opened = describe_model(open_checkpoint(tiny_model), wanted)
    alone = describe_model(read_model_config(tiny_model / "config.json"), wanted)
    for field in ("backend", "capabilities", "spec", "linears", "stored", "dtype", "notes"):
        assert getattr(opened, field) == getattr(alone, field), field
    assert opened.tokenizer().vocab_size == alone.tokenizer().vocab_size


def test_the_own_decoder_is_described_as_it_is_loaded(tiny_model: Path) -> None:
    checkpoint = open_checkpoint(tiny_model)
    found, model = describe_model(checkpoint, Backend.AUTO), load_model(checkpoint)
    assert isinstance(model, CausalLM)
    assert (found.backend, found.capabilities) == (Backend.VENEER, CAPABILITIES[Backend.VENEER])
    assert isinstance(found.spec, DecoderSpec)
    assert found.spec == model.spec
    assert list(found.linears) == model.linear_paths()
    assert (found.stored, found.dtype, found.notes) == (None, torch.float32, ())


@pytest.mark.parametrize(("said", "held"), [("bfloat16", torch.float32), ("float32", torch.float16)])
def test_the_dtype_is_that_of_the_files_whatever_the_configuration_says(
    said: str, held: torch.dtype, tiny_model: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "dtype": said, "torch_dtype": said}))
    weights = load_file(folder / "model.safetensors")
    save_file({name: tensor.to(held) for name, tensor in weights.items()}, folder / "model.safetensors")
    for model in (open_checkpoint(folder), read_model_config(folder)):
        assert describe_model(model, Backend.AUTO).dtype is held
    alone = describe_model(read_model_config(folder / "config.json"), Backend.AUTO)
    assert alone.dtype is getattr(torch, said)


@pytest.mark.parametrize("alone", [False, True])
def test_files_that_are_quantised_say_so(alone: bool, tiny_model: Path, tmp_path: Path) -> None:
    quantize(str(tiny_model), tmp_path / "q")
    model = read_model_config(tmp_path / "q" / "config.json") if alone else open_checkpoint(tmp_path / "q")
    stored = describe_model(model, Backend.AUTO).stored
    assert stored is not None
    assert (stored.scheme.value, stored.double_quant, stored.skip_modules) == ("nf4", True, ())


def test_transformers_is_said_and_can_less(tmp_path: Path) -> None:
    found = describe_model(open_checkpoint(write_hf_model(tmp_path / "model", "gpt2")), Backend.AUTO)
    assert found.backend is Backend.HF
    assert isinstance(found.spec, HfSpec)
    assert "computed by transformers" in found.notes[0]
    assert found.capabilities.packages == ("transformers",)


def test_a_model_that_nobody_knows_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "perpetuum_mobile"}')
    with pytest.raises(ModelError, match="perpetuum_mobile"):
        describe_model(read_model_config(tmp_path), Backend.AUTO)


def test_where_nothing_says_the_dtype_an_element_takes_the_most(tiny_model: Path) -> None:
    found = describe_model(open_checkpoint(tiny_model), Backend.AUTO)
    sizes = {dtype: replace(found, dtype=dtype).file_bytes for dtype in (torch.bfloat16, torch.float32, None)}
    assert sizes == {torch.bfloat16: 2, torch.float32: 4, None: 4}
