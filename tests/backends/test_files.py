from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from helpers.models.hf_models import LIKE_ROBERTA, OTHERS, SHAPES, tiny_hf
from veneer.backends.files import HfFiles
from veneer.backends.load import load_hf
from veneer.errors import ModelError
from veneer.io.checkpoint import open_checkpoint
from veneer.model.hf_skeleton import make_skeleton


def files_of(kind: str, folder: Path) -> HfFiles:
    tiny_hf(kind).save_pretrained(folder)
    checkpoint = open_checkpoint(folder)
    return HfFiles(checkpoint, make_skeleton(checkpoint.config, torch.float32))


@pytest.mark.parametrize("kind", [*SHAPES, *OTHERS, *LIKE_ROBERTA])
def test_every_tensor_of_the_model_is_read_as_its_linear_layers_want_it(kind: str, tmp_path: Path) -> None:
    theirs, files = tiny_hf(kind), files_of(kind, tmp_path)
    turned = {f"{line.path}.weight" for line in make_skeleton(theirs.config.to_dict(), torch.float32).spec.linears
              if line.transposed}  # fmt: skip
    tied = theirs.all_tied_weights_keys
    for own, parameter in theirs.named_parameters():
        name = tied.get(own, own)
        expected = parameter.t() if name in turned else parameter
        assert torch.equal(files.read(name, torch.float32), expected), name
        if len(files.file_names(name)) == 1:
            assert files.shape(name) == tuple(expected.shape)
    assert (kind == "gpt2") is bool(turned)


def test_a_tensor_is_written_back_the_way_round_that_the_files_have_it(tmp_path: Path) -> None:
    files = files_of("gpt2", tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    name = "transformer.h.0.attn.c_attn.weight"
    assert torch.equal(files.turned(name, files.read(name, torch.float32)), stored[files.file_name(name)])


def test_experts_that_are_one_tensor_in_memory_are_several_in_files(tmp_path: Path) -> None:
    files = files_of("deepseek_v3", tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    several = [name for name in files.names() if len(files.file_names(name)) > 1]
    assert several
    for name in several:
        assert set(files.file_names(name)) <= stored.keys()
        with pytest.raises(ModelError, match=f"{name} is made of several tensors"):
            files.file_name(name)


def test_a_name_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="has no tensor 'absent'"):
        files_of("gpt2", tmp_path).read("absent", torch.float32)


def test_files_that_do_not_fit_are_refused_by_name(tmp_path: Path) -> None:
    tiny_hf("gpt_neox").save_pretrained(tmp_path)
    config = (tmp_path / "config.json").read_text(encoding="utf-8")
    (tmp_path / "config.json").write_text(config.replace('"num_hidden_layers": 2', '"num_hidden_layers": 3'))
    with pytest.raises(ModelError, match=r"do not have:\n.*gpt_neox\.layers\.2\."):
        load_hf(open_checkpoint(tmp_path))
    (tmp_path / "config.json").write_text(config.replace('"intermediate_size": 112', '"intermediate_size": 111'))
    with pytest.raises(ModelError, match=r"dense_h_to_4h\.weight: shape \[112, 64\], config.json says \[111, 64\]"):
        load_hf(open_checkpoint(tmp_path))


def test_a_tied_weight_that_is_met_as_the_head_is_needed_as_the_embedding(tmp_path: Path) -> None:
    tiny_hf("camembert").save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    embedding = "roberta.embeddings.word_embeddings.weight"
    assert embedding in weights
    assert "lm_head.decoder.weight" not in weights
    config = (tmp_path / "config.json").read_text(encoding="utf-8")
    (tmp_path / "config.json").write_text(config.replace('"vocab_size": 96', '"vocab_size": 95'), encoding="utf-8")
    with pytest.raises(ModelError, match=rf"{embedding}: shape \[96, 64\], config.json says \[95, 64\]"):
        load_hf(open_checkpoint(tmp_path))
    save_file({name: tensor for name, tensor in weights.items() if name != embedding}, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=rf"do not have:\n.*{embedding}"):
        load_hf(open_checkpoint(tmp_path))
