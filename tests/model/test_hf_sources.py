"""The tensors of a model of transformers are those that its files hold, under other names too."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from helpers.models.hf_models import OTHERS, SHAPES, tiny_hf
from veneer.errors import ModelError
from veneer.model.hf_skeleton import make_skeleton
from veneer.model.hf_sources import find_sources, keeps_float32


@pytest.mark.parametrize("kind", [*SHAPES, *OTHERS])
def test_every_tensor_of_the_model_is_found_in_its_files(kind: str, tmp_path: Path) -> None:
    theirs = tiny_hf(kind)
    theirs.save_pretrained(tmp_path)
    files = load_file(tmp_path / "model.safetensors")
    module = make_skeleton(theirs.config.to_dict(), torch.float32).module
    sources = find_sources(module, files)
    for name, parameter in theirs.named_parameters():
        source = sources[name]
        reads = [lambda tensor=files[one]: tensor for one in source.names]
        made = reads[0]() if source.make is None else source.make(reads)
        assert torch.equal(made, parameter), name


def test_tensors_that_the_files_lack_are_all_named() -> None:
    theirs = tiny_hf("gpt_neox")
    module = make_skeleton(theirs.config.to_dict(), torch.float32).module
    names = [name for name in theirs.state_dict() if "layers.1.mlp" not in name]
    missing = set(theirs.state_dict()) - set(names)
    assert len(missing) == 4
    with pytest.raises(ModelError) as caught:
        find_sources(module, names)
    assert [name for name in missing if name not in str(caught.value)] == []


def test_tensors_that_transformers_keeps_in_float32_are_known_by_a_part_of_their_name() -> None:
    module = make_skeleton(tiny_hf("gpt2").config.to_dict(), torch.bfloat16).module
    assert not keeps_float32(module)("transformer.wte.weight")
    module._keep_in_fp32_modules_strict = {"gate"}
    keep = keeps_float32(module)
    assert [keep("gate"), keep("mlp.gate.weight"), keep("mlp.gate_proj.weight")] == [True, True, False]
