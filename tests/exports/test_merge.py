"""Every kind of adapter merged: transformers loads the result, and it computes what the live adapter computes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM

from helpers.models.tiny_models import (
    documents,
    largest_difference,
    packed_logits,
    saved,
    their_logits,
    tiny,
    tiny_llama,
)
from veneer.adapters.files.store import save_adapter
from veneer.adapters.inject import inject
from veneer.adapters.spec import LoraSpec
from veneer.adapters.targets import EMBEDDING, HEAD
from veneer.config import QuantSection
from veneer.enums import Bias, Init, Variant
from veneer.errors import AdapterError
from veneer.exports.base import MergeBase, TrainingBase, open_source
from veneer.exports.merge import write_merged
from veneer.loading.forms import WeightForm
from veneer.loading.how import Loading
from veneer.loading.load import load_model

TEXTS = documents([19, 8], seed=4)
TIED, BIASED = {"tie_word_embeddings": True}, {"attention_bias": True}
KINDS: dict[str, tuple[dict[str, Any], dict[str, Any], bool]] = {
    "dora": ({"variant": Variant.DORA}, TIED, True),
    "a start that is subtracted": ({"init": Init.OLORA}, TIED, True),
    "biases": ({"bias": Bias.ALL}, BIASED, False),
    "a bias of B": ({"factor_bias": True, "target_modules": ("q_proj",)}, BIASED, False),
    "the embedding of a tied model": ({"target_modules": ("embed_tokens",)}, TIED, False),
    "the head of a tied model": ({"target_modules": ("lm_head", "q_proj")}, TIED, False),
    "tokens of a tied model": ({"trainable_tokens": {EMBEDDING: (TEXTS[0][1], TEXTS[0][4])}}, TIED, True),
    "tokens of the head": ({"trainable_tokens": {HEAD: (3, 5)}}, {}, False),
    "a saved embedding with its head": ({"modules_to_save": ("embed_tokens",), "tied_modules": True}, TIED, True),
    "a saved embedding and head": (
        {"modules_to_save": ("lm_head", "embed_tokens"), "tied_modules": True},
        TIED,
        True,
    ),
    "a saved embedding and an update of its head": (
        {"target_modules": ("q_proj", "lm_head"), "modules_to_save": ("embed_tokens",), "tied_modules": True},
        TIED,
        False,
    ),
    "biases beside a saved layer": (
        {"bias": Bias.ALL, "target_modules": ("o_proj",), "modules_to_save": ("q_proj",)},
        BIASED,
        False,
    ),
    "a saved embedding alone": ({"modules_to_save": ("embed_tokens", "norm")}, TIED, False),
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_a_merged_model_computes_what_the_adapter_computes(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, changes, tied = KINDS[kind]
    llama = tiny_llama(changes=changes)
    with torch.no_grad():
        llama.model.embed_tokens.weight.mul_(0.1)
    checkpoint = saved(llama, tmp_path / "base")
    monkeypatch.setattr(checkpoint, "tokenizer", _NoTokenizer)
    model = load_model(checkpoint, Loading(dtype=torch.float32))
    adapter = inject(model, LoraSpec(**({"rank": 4, "alpha": 8.0} | settings)))
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    folder, merged = tmp_path / "adapter", tmp_path / "merged"
    folder.mkdir()
    merged.mkdir()
    save_adapter(folder, adapter, base="base")
    source = open_source(checkpoint, folder, MergeBase.ORIGINAL, TrainingBase(False, QuantSection(), torch.float32))
    written = write_merged(merged, source, torch.float32)
    assert written.tied is tied
    assert json.loads((merged / "config.json").read_text())["tie_word_embeddings"] is tied
    theirs = LlamaForCausalLM.from_pretrained(merged).eval()
    with torch.no_grad():
        assert largest_difference(their_logits(theirs, TEXTS), packed_logits(model, TEXTS)) < 1e-5


@pytest.mark.parametrize("settings", [{"bias": Bias.ALL}, {"modules_to_save": ("norm",)}], ids=["bias", "saved"])
def test_norms_that_have_a_bias_are_merged_with_it(settings: dict[str, Any], tmp_path: Path) -> None:
    base = tiny("stablelm", changes={"use_qkv_bias": True})
    checkpoint = saved(base, tmp_path / "base")
    model = load_model(checkpoint, Loading(dtype=torch.float32))
    adapter = inject(model, LoraSpec(rank=4, alpha=8.0, target_modules=("q_proj",), **settings))
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    merged = dict(adapter.merged())
    assert not torch.equal(merged["model.norm.bias"], base.state_dict()["model.norm.bias"].double())
    base.load_state_dict({name: tensor.float() for name, tensor in merged.items()}, strict=False)
    with torch.no_grad():
        assert largest_difference(their_logits(base, TEXTS), packed_logits(model, TEXTS)) < 1e-4


def test_what_is_not_quantised_is_merged_as_the_files_have_it_whatever_was_trained_in(tmp_path: Path) -> None:
    """The live adapter, with which a merged model is compared, rounds none of it to the dtype of training either."""
    llama, generator = tiny_llama(changes=BIASED), torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in llama.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    checkpoint, quant = saved(llama, tmp_path / "base"), QuantSection(skip_modules=("o_proj",))
    model = load_model(checkpoint, Loading(form=WeightForm.QUANTIZED, dtype=torch.bfloat16, quant=quant))
    adapter = inject(model, LoraSpec(rank=4, alpha=8.0, target_modules=("q_proj", "o_proj", "embed_tokens")))
    (tmp_path / "adapter").mkdir()
    save_adapter(tmp_path / "adapter", adapter, base="base")
    trained = TrainingBase(True, quant, torch.bfloat16)
    merged = dict(open_source(checkpoint, tmp_path / "adapter", MergeBase.DEQUANTISED, trained).merged())
    # B is 0 at the start: what is merged is the base.
    path = "model.layers.1.self_attn"
    for name in (f"{path}.q_proj.bias", f"{path}.o_proj.weight", f"{path}.o_proj.bias", f"{EMBEDDING}.weight"):
        assert torch.equal(merged[name], llama.state_dict()[name].double()), name
    packed = model.get_submodule(f"{path}.q_proj.base").dequantize(torch.float32)  # type: ignore[operator]
    assert torch.equal(merged[f"{path}.q_proj.weight"], packed.double())


class _NoTokenizer:
    """A tiny random model has none."""

    def save(self, directory: Path) -> None:
        pass


def test_a_bias_where_the_architecture_has_none_is_refused(tmp_path: Path) -> None:
    checkpoint = saved(tiny_llama(), tmp_path / "base")
    adapter = inject(
        load_model(checkpoint, Loading(dtype=torch.float32)), LoraSpec(rank=4, alpha=8.0, factor_bias=True)
    )
    folder = tmp_path / "adapter"
    folder.mkdir()
    save_adapter(folder, adapter, base="base")
    source = open_source(checkpoint, folder, MergeBase.ORIGINAL, TrainingBase(False, QuantSection(), torch.float32))
    (tmp_path / "merged").mkdir()
    with pytest.raises(AdapterError, match=r"adds model\.layers\.0\.self_attn\.q_proj\.bias"):
        write_merged(tmp_path / "merged", source, torch.float32)
