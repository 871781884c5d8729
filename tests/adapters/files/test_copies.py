"""What PEFT writes of the base beside an adapter is compared with the model, and starts are taken out of it again."""

from __future__ import annotations

import json
from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaForCausalLM

from helpers.adapters.peft_folders import rewrite_tensors
from helpers.adapters.random_adapters import randomised
from helpers.models.tiny import write_model
from helpers.models.tiny_models import documents, largest_difference, ours, packed_logits, their_logits, tiny_llama
from helpers.tensors import assert_same_tensors
from veneer.adapters.files.store import CONFIG_FILE, WEIGHTS_FILE, save_adapter
from veneer.adapters.inject import inject
from veneer.adapters.layers.linear import LoraLinear
from veneer.adapters.load import load_adapter
from veneer.adapters.spec import LoraSpec
from veneer.adapters.targets import EMBEDDING, HEAD
from veneer.errors import AdapterError
from veneer.io.checkpoint import open_checkpoint
from veneer.loading.forms import WeightForm
from veneer.loading.how import Loading
from veneer.loading.load import load_model


@pytest.mark.parametrize("name", ["pissa", "olora"])
def test_an_adapter_that_peft_did_not_convert_is_read_with_its_start(name: str, tmp_path: Path) -> None:
    """PEFT takes the start out of the base at every loading: read as a plain adapter it would be another model."""
    texts = documents([13, 6])
    theirs = peft.get_peft_model(
        tiny_llama(), peft.LoraConfig(r=4, lora_alpha=6, target_modules=["q_proj"], init_lora_weights=name)
    ).eval()
    with torch.no_grad():
        for parameter in (p for p in theirs.parameters() if p.requires_grad):
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    theirs.save_pretrained(tmp_path / "adapter")
    model = ours(tiny_llama(), tmp_path / "base")
    load_adapter(model, tmp_path / "adapter")
    with torch.no_grad():
        assert largest_difference(packed_logits(model, texts), their_logits(theirs, texts)) < 1e-5
    quantised = ours(tiny_llama(), tmp_path / "quantised", form=WeightForm.QUANTIZED)
    with pytest.raises(AdapterError, match="this base is quantised"):
        load_adapter(quantised, tmp_path / "adapter")
    assert not any(isinstance(module, LoraLinear) for module in quantised.modules())


@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`:UserWarning")
@pytest.mark.parametrize("name", ["pissa", "olora"])
def test_a_start_that_peft_took_out_of_the_head_is_read_with_the_head(name: str, tmp_path: Path) -> None:
    """Since the head is a target, PEFT writes its weight into the file, without the start."""
    texts, targets = documents([13, 6]), ["q_proj", "lm_head"]
    theirs = peft.get_peft_model(tiny_llama(), peft.LoraConfig(r=4, target_modules=targets, init_lora_weights=name))
    with torch.no_grad():
        for parameter in (p for p in theirs.parameters() if p.requires_grad):
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    theirs.save_pretrained(tmp_path / "adapter")
    assert any(key.endswith("lm_head.base_layer.weight") for key in load_file(tmp_path / "adapter" / WEIGHTS_FILE))
    model = ours(tiny_llama(), tmp_path / "base")
    load_adapter(model, tmp_path / "adapter")
    with torch.no_grad():
        assert largest_difference(packed_logits(model, texts), their_logits(theirs.eval(), texts)) < 1e-5
    other = ours(tiny_llama(seed=9), tmp_path / "other")
    with pytest.raises(
        AdapterError, match=r"lm_head\.base_layer\.weight: its values differ from the model's without its"
    ):
        load_adapter(other, tmp_path / "adapter")
    tied = ours(tiny_llama(changes={"tie_word_embeddings": True}), tmp_path / "tied")
    with pytest.raises(AdapterError, match=f"'{name}' subtracts its start from the weight of lm_head, which is"):
        load_adapter(tied, tmp_path / "adapter")


def llama(tied: bool, seed: int = 0) -> LlamaForCausalLM:
    """A small model; a tied embedding is as small as a head, so that float32 rounds its logits as little."""
    model = tiny_llama(seed, {"tie_word_embeddings": tied})
    if tied:
        with torch.no_grad():
            model.lm_head.weight.mul_(0.15)
    return model


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("saved", [["embed_tokens"], ["lm_head"], ["embed_tokens", "lm_head"]])
def test_modules_that_are_saved_with_their_copies_are_read_as_they_were_trained(
    saved: list[str], tied: bool, tmp_path: Path
) -> None:
    """PEFT writes them as in the base, and twice as trained."""
    texts = documents([13, 6])
    settings = peft.LoraConfig(r=4, target_modules=["q_proj"], modules_to_save=saved)
    theirs = peft.get_peft_model(llama(tied), settings)
    with torch.no_grad():
        for parameter in (p for p in theirs.parameters() if p.requires_grad):
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    theirs.save_pretrained(tmp_path / "adapter", save_embedding_layers=True)
    model = ours(llama(tied), tmp_path / "base")
    load_adapter(model, tmp_path / "adapter")
    with torch.no_grad():
        assert largest_difference(packed_logits(model, texts), their_logits(theirs.eval(), texts)) < 2e-5
    other = ours(llama(tied, seed=9), tmp_path / "other")
    with pytest.raises(AdapterError, match=r"original_module\.weight: its values differ from the model's"):
        load_adapter(other, tmp_path / "adapter")


def test_an_update_of_a_head_that_was_saved_as_tied_to_its_embedding_is_read_as_it_was_trained(tmp_path: Path) -> None:
    """Adapters of earlier versions name the tie, and hold the embedding under the head's name too."""
    base, folder = open_checkpoint(write_model(tmp_path / "base")), tmp_path / "adapter"
    folder.mkdir()
    settings = {"target_modules": ("q_proj", "lm_head"), "modules_to_save": ("embed_tokens",), "tied_modules": True}
    trained = randomised(
        inject(load_model(base, Loading(dtype=torch.float32)), LoraSpec(rank=2, alpha=2.0, **settings))
    )
    save_adapter(folder, trained, base="base")
    config = json.loads((folder / CONFIG_FILE).read_text())
    assert config["ensure_weight_tying"] is False
    (folder / CONFIG_FILE).write_text(json.dumps(config | {"ensure_weight_tying": True}))
    embedding, head = (f"base_model.model.{path}.weight" for path in (EMBEDDING, HEAD))
    rewrite_tensors(folder, lambda found: found | {head: found[embedding].clone()})
    opened = load_adapter(load_model(base, Loading(dtype=torch.float32)), folder).tensors()
    assert_same_tensors(opened, trained.tensors())
