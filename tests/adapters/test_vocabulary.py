"""Vocabularies that grew: PEFT's adapters over resized models are read, and ours grow by themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from transformers import LlamaForCausalLM

from helpers.models.tiny_models import documents, largest_difference, ours, packed_logits, their_logits, tiny_llama
from veneer.adapters.files.store import save_adapter
from veneer.adapters.inject import inject
from veneer.adapters.load import load_adapter
from veneer.adapters.spec import LoraSpec
from veneer.adapters.targets import EMBEDDING, HEAD
from veneer.adapters.vocabulary import EmbeddingSnapshot, resize_embeddings
from veneer.errors import AdapterError
from veneer.io.checkpoint import open_checkpoint
from veneer.loading.how import Loading
from veneer.loading.load import load_model

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::peft.utils.warning.PeftWarning")
ROWS = 99
TEXTS = [[*documents([12], seed=1)[0], 97, 3, 98], documents([6], seed=2)[0]]
KINDS: dict[str, dict[str, Any]] = {
    "tokens": {"target_modules": ["q_proj"], "trainable_token_indices": [3, 97, 98]},
    "saved ends": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]},
    "embedding": {"target_modules": ["q_proj", "embed_tokens"]},
    "head": {"target_modules": ["q_proj", "lm_head"]},
}


def resized(tied: bool, path: Path) -> LlamaForCausalLM:
    """transformers' model after `resize_token_embeddings`; its base is in `path`, where PEFT looks for its size."""
    base = tiny_llama(changes={"tie_word_embeddings": tied})
    with torch.no_grad():
        base.model.embed_tokens.weight.mul_(0.15)
    base.save_pretrained(path)
    model = LlamaForCausalLM.from_pretrained(path)
    torch.manual_seed(0)
    model.resize_token_embeddings(ROWS)
    return model.eval()


LOST = {("embedding", False), ("head", False)}
"""Of an untied model PEFT saves the resized end that is adapted, and not the other, whose new rows are lost."""


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_over_a_resized_model_is_read(kind: str, tied: bool, tmp_path: Path) -> None:
    base = resized(tied, tmp_path / "base")
    theirs = peft.get_peft_model(base, peft.LoraConfig(r=4, lora_alpha=6, task_type="CAUSAL_LM", **KINDS[kind])).eval()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in (p for p in theirs.parameters() if p.requires_grad):
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    theirs.save_pretrained(tmp_path / "adapter")
    model = load_model(open_checkpoint(tmp_path / "base"), Loading(dtype=torch.float32)).eval()
    if (kind, tied) in LOST:
        with pytest.raises(AdapterError, match=r"new rows of .* are not in it"):
            load_adapter(model, tmp_path / "adapter")
        return
    load_adapter(model, tmp_path / "adapter")
    with torch.no_grad():
        found = packed_logits(model, TEXTS)
        assert found.shape[1] == ROWS
        assert largest_difference(found, their_logits(theirs, TEXTS)) < 1e-5


@pytest.mark.parametrize("tied", [False, True])
def test_new_rows_start_as_the_mean_and_are_read_again(tied: bool, tmp_path: Path) -> None:
    changes = {"tie_word_embeddings": tied}
    model = ours(tiny_llama(changes=changes), tmp_path / "base")
    old = [text[:6] for text in TEXTS]
    before = packed_logits(model, old)
    resize_embeddings(model, ROWS)
    assert torch.equal(packed_logits(model, old)[:, :96], before)
    weight = model.model.embed_tokens.weight
    assert largest_difference(weight[97], weight[:96].mean(0)) < 1e-6
    assert model.spec.vocab_size == ROWS
    ids = (3, 96, 97, 98)
    tokens = {EMBEDDING: ids} if tied else {EMBEDDING: ids, HEAD: ids}
    adapter = inject(model, LoraSpec(rank=4, alpha=8.0, trainable_tokens=tokens))
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        save_adapter(tmp_path, adapter, base="base")
        again = ours(tiny_llama(changes=changes), tmp_path / "again")
        load_adapter(again, tmp_path)
        assert torch.equal(packed_logits(again, TEXTS), packed_logits(model, TEXTS))


def test_what_does_not_fit_leaves_the_model_as_it_was(tmp_path: Path) -> None:
    model = ours(tiny_llama(), tmp_path / "base")
    resize_embeddings(model, ROWS)
    adapter = inject(model, LoraSpec(rank=4, alpha=8.0, trainable_tokens={EMBEDDING: (98,)}))
    save_adapter(tmp_path, adapter, base="base")
    other = ours(tiny_llama(changes={"num_hidden_layers": 1}), tmp_path / "other")
    before, logits = EmbeddingSnapshot.of(other), packed_logits(other, TEXTS[1:])
    with pytest.raises(AdapterError, match=r"layers\.1"):
        load_adapter(other, tmp_path)
    assert EmbeddingSnapshot.of(other) == before
    assert torch.equal(packed_logits(other, TEXTS[1:]), logits)
