"""A model with an adapter beside its base is the model that the adapter is loaded onto, and the base stays the base."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.adapters.peft_folders import write_adapter
from helpers.models.tiny import write_model
from veneer.adapters.beside import load_beside, sharing_weights
from veneer.adapters.load import load_adapter
from veneer.enums import Variant
from veneer.errors import AdapterError
from veneer.io.checkpoint import open_checkpoint
from veneer.io.tokenizer import from_directory
from veneer.loading.forms import WeightForm
from veneer.loading.how import Loading
from veneer.loading.load import load_model
from veneer.model.decoder import CausalLM

TOKENS = torch.tensor([5, 9, 77, 31, 8])


def logits(model: CausalLM) -> torch.Tensor:
    with torch.no_grad():
        return model.logits(model.documents(TOKENS, torch.arange(len(TOKENS)), [len(TOKENS)]))


@pytest.mark.parametrize("form", [WeightForm.FROZEN, WeightForm.QUANTIZED])
@pytest.mark.parametrize("kind", [{}, {"variant": Variant.DORA}, {"modules_to_save": ("lm_head",)}])
def test_it_computes_what_the_loaded_adapter_computes(tmp_path: Path, form: WeightForm, kind: dict[str, Any]) -> None:
    path = write_model(tmp_path / "model", tied=False)

    def fresh() -> CausalLM:
        found = load_model(open_checkpoint(path), Loading(dtype=torch.float32, form=form))
        found.eval()
        return found

    (tmp_path / "one").mkdir()
    write_adapter(tmp_path / "one", fresh(), **kind)
    base, alone = fresh(), fresh()
    before = logits(base)
    load_adapter(alone, tmp_path / "one")
    alone.requires_grad_(False)  # torch multiplies by what is trained, and its sums have another order
    twin, _ = load_beside(base, tmp_path / "one")
    assert torch.equal(logits(twin), logits(alone))
    assert not torch.equal(logits(twin), before)
    assert torch.equal(logits(base), before)


def test_the_weights_are_shared(tmp_path: Path) -> None:
    base = load_model(open_checkpoint(write_model(tmp_path)), Loading(dtype=torch.float32))
    twin = sharing_weights(base)
    own = {name: tensor.data_ptr() for name, tensor in base.named_parameters()}
    assert {name: tensor.data_ptr() for name, tensor in twin.named_parameters()} == own
    assert not {id(module) for module in base.modules()} & {id(module) for module in twin.modules()}


def test_a_refused_adapter_leaves_the_base_as_it_was(tmp_path: Path) -> None:
    base = load_model(open_checkpoint(write_model(tmp_path / "a")), Loading(dtype=torch.float32))
    wide = load_model(open_checkpoint(write_model(tmp_path / "b", hidden=128)), Loading(dtype=torch.float32))
    (tmp_path / "one").mkdir()
    write_adapter(tmp_path / "one", wide)
    before = logits(base)
    with pytest.raises(AdapterError, match="does not fit"):
        load_beside(base, tmp_path / "one")
    assert torch.equal(logits(base), before)


def test_an_adapter_with_tokens_of_its_own_is_refused_where_the_embedding_has_rows_to_spare(tmp_path: Path) -> None:
    path, folder = write_model(tmp_path / "a"), tmp_path / "one"
    adapted, base = (load_model(open_checkpoint(path), Loading(dtype=torch.float32)) for _ in range(2))
    tokenizer = from_directory(path)
    folder.mkdir()
    write_adapter(folder, adapted)
    tokenizer.save(folder)
    load_beside(base, folder, tokenizer)  # programs save the base's tokenizer beside their adapters
    replace(tokenizer.with_tokens(["[PAD]"]), pad_token="[PAD]").save(folder)
    load_beside(base, folder, tokenizer)  # no text has a token for padding
    tokenizer.with_tokens(["<claim>"]).save(folder)
    with pytest.raises(AdapterError, match="has tokens of its own"):
        load_beside(base, folder, tokenizer)
