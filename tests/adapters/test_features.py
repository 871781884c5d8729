"""Every kind of adapter that PEFT makes and veneer trains: the same outputs, gradients and files, both ways."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from helpers.models.tiny_models import (
    documents,
    largest_difference,
    ours,
    packed_hidden,
    packed_logits,
    their_logits,
    tiny,
    tiny_llama,
)
from helpers.tensors import assert_same_tensors
from veneer.adapters.adapter import Adapter
from veneer.adapters.files.store import save_adapter
from veneer.adapters.inject import inject
from veneer.adapters.load import load_adapter
from veneer.adapters.spec import LoraSpec
from veneer.adapters.targets import EMBEDDING, HEAD
from veneer.enums import Bias, Method, Scaling, Variant
from veneer.losses.linear_head import linear_cross_entropy
from veneer.losses.module_head import scored_cross_entropy
from veneer.model.decoder import CausalLM, plain_weight
from veneer.planning.setup import Setup

# PEFT warns of what some of these options cost there: merging, or an embedding saved whole.
pytestmark = [
    pytest.mark.filterwarnings("ignore::peft.utils.warning.PeftWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]
TEXTS = documents([21, 8], seed=8)
# Of tokens that the texts have: others have no gradient where the head is not tied. In no order, as PEFT takes them.
SOME = [TEXTS[0][5], TEXTS[1][1], TEXTS[0][2]]
TIED = {"tie_word_embeddings": True}
BIASED = {"attention_bias": True}


@dataclass(frozen=True)
class Case:
    """One kind of adapter: PEFT's settings, ours where they are not the same, and what the model must be like."""

    theirs: dict[str, Any]
    ours: dict[str, Any]
    model: dict[str, Any] = field(default_factory=dict)


CASES = {
    "plain": Case({}, {}),
    "rslora": Case({"use_rslora": True}, {"scaling": Scaling.RSLORA}),
    "rslora and patterns": Case(
        {"use_rslora": True, "rank_pattern": {"down_proj": 7}, "alpha_pattern": {"layers.1.self_attn.q_proj": 3}},
        {
            "scaling": Scaling.RSLORA,
            "rank_pattern": {"down_proj": 7},
            "alpha_pattern": {"layers.1.self_attn.q_proj": 3.0},
        },
    ),
    "dora": Case({"use_dora": True}, {"variant": Variant.DORA}),
    "dora with biases": Case({"use_dora": True, "bias": "all"}, {"variant": Variant.DORA, "bias": Bias.ALL}, BIASED),
    "patterns": Case(
        {"rank_pattern": {"q_proj": 2, r"layers\.1\.mlp\.up_proj": 6}, "alpha_pattern": {".*_proj": 5}},
        {"rank_pattern": {"q_proj": 2, r"layers\.1\.mlp\.up_proj": 6}, "alpha_pattern": {".*_proj": 5.0}},
    ),
    "layers": Case({"layers_to_transform": [1]}, {"layers_to_transform": (1,)}),
    "excluded": Case({"exclude_modules": ["layers.0.mlp.up_proj"]}, {"exclude_modules": ("layers.0.mlp.up_proj",)}),
    "all biases": Case({"bias": "all"}, {"bias": Bias.ALL}, BIASED),
    "adapted biases": Case({"bias": "lora_only"}, {"bias": Bias.LORA_ONLY}, BIASED),
    "a bias of B": Case({"lora_bias": True}, {"factor_bias": True}, BIASED),
    "a bias of B where there was none": Case({"lora_bias": True}, {"factor_bias": True}),
    "embedding": Case({"target_modules": ["q_proj", "embed_tokens"]}, {}),
    "embedding, tied": Case({"target_modules": ["q_proj", "embed_tokens"]}, {}, TIED),
    "head": Case({"target_modules": ["v_proj", "lm_head"]}, {}),
    "head, tied": Case({"target_modules": ["v_proj", "lm_head"]}, {}, TIED),
    "both ends, tied": Case({"target_modules": ["embed_tokens", "lm_head"]}, {}, TIED),
    "dora at both ends": Case(
        {"target_modules": ["embed_tokens", "o_proj", "lm_head"], "use_dora": True}, {"variant": Variant.DORA}
    ),
    "a saved head": Case({"modules_to_save": ["lm_head"]}, {"modules_to_save": ("lm_head",)}),
    "every saved norm": Case(
        {"modules_to_save": ["norm"]},
        {"modules_to_save": ("norm", "input_layernorm", "post_attention_layernorm")},
    ),
    "a saved embedding": Case({"modules_to_save": ["embed_tokens"]}, {"modules_to_save": ("embed_tokens",)}),
    "a saved embedding, parted from its head": Case(
        {"modules_to_save": ["embed_tokens"]}, {"modules_to_save": ("embed_tokens",)}, TIED
    ),
    "a saved embedding with its head": Case(
        {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
        {"modules_to_save": ("embed_tokens",), "tied_modules": True},
        TIED,
    ),
    "a saved embedding, and an update of the head that was tied to it": Case(
        {"target_modules": ["v_proj", "lm_head"], "modules_to_save": ["embed_tokens"]},
        {"modules_to_save": ("embed_tokens",), "tied_modules": True},
        TIED,
    ),
    "biases beside a saved layer that has one": Case(
        {"target_modules": ["o_proj"], "modules_to_save": ["q_proj"], "bias": "all"},
        {"modules_to_save": ("q_proj",), "bias": Bias.ALL},
        BIASED,
    ),
    "a saved layer": Case(
        {"target_modules": ["q_proj"], "modules_to_save": ["layers.1.mlp.down_proj"]},
        {"modules_to_save": ("layers.1.mlp.down_proj",)},
    ),
    "tokens": Case({"trainable_token_indices": SOME}, {"trainable_tokens": {EMBEDDING: tuple(SOME)}}),
    "tokens, tied": Case({"trainable_token_indices": SOME}, {"trainable_tokens": {EMBEDDING: tuple(SOME)}}, TIED),
    "tokens of both ends": Case(
        {"trainable_token_indices": {"embed_tokens": SOME[:2], "lm_head": [4]}},
        {"trainable_tokens": {EMBEDDING: tuple(SOME[:2]), HEAD: (4,)}},
    ),
    "tokens of the head, beside an update of the embedding": Case(
        {"target_modules": ["q_proj", "embed_tokens"], "trainable_token_indices": {"lm_head": [4]}},
        {"trainable_tokens": {HEAD: (4,)}},
    ),
    "tokens of the head, beside a saved embedding": Case(
        {"modules_to_save": ["embed_tokens"], "trainable_token_indices": {"lm_head": [4]}},
        {"modules_to_save": ("embed_tokens",), "trainable_tokens": {HEAD: (4,)}},
    ),
    "tokens of the head": Case(
        {"trainable_token_indices": {"lm_head": [4, 50]}}, {"trainable_tokens": {HEAD: (4, 50)}}
    ),
}
every_case = pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))


def llama(changes: dict[str, Any]) -> LlamaForCausalLM:
    """A tiny model whose scores are of a size that 1e-5 means something for: a tied head is an embedding's size."""
    model = tiny_llama(changes=changes)
    if changes.get("tie_word_embeddings"):
        with torch.no_grad():
            model.model.embed_tokens.weight.mul_(0.15)
    return model


def their_adapter(case: Case) -> peft.PeftModel:
    settings = {"r": 4, "lora_alpha": 6, "task_type": "CAUSAL_LM", "target_modules": "all-linear"} | case.theirs
    if settings.get("layers_to_transform"):
        settings["target_modules"] = ["q_proj", "down_proj"]
    model = peft.get_peft_model(llama(case.model), peft.LoraConfig(**settings))
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in (p for p in model.parameters() if p.requires_grad):
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def our_adapter(case: Case, model: CausalLM) -> Adapter:
    targets = case.theirs.get("target_modules", "all-linear")
    if "layers_to_transform" in case.theirs:
        targets = ["q_proj", "down_proj"]
    settings = {"rank": 4, "alpha": 6.0, "target_modules": targets if isinstance(targets, str) else tuple(targets)}
    adapter = inject(model, LoraSpec(**(settings | case.ours)))
    generator = torch.Generator().manual_seed(6)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return adapter


def our_loss(model: CausalLM) -> Tensor:
    """Mean over all tokens, as the engine computes it."""
    ends = {len(TEXTS[0]) - 1, len(TEXTS[0]) + len(TEXTS[1]) - 1}
    rows = [row for row in range(sum(map(len, TEXTS))) if row not in ends]
    targets = torch.tensor([token for text in TEXTS for token in text[1:]])
    hidden, weight = packed_hidden(model, TEXTS)[rows], plain_weight(model.lm_head)
    if weight is not None:
        return linear_cross_entropy(hidden, weight, targets) / len(rows)
    return scored_cross_entropy(hidden, model.lm_head, targets, chunk=11) / len(rows)


def their_loss(model: torch.nn.Module) -> Tensor:
    losses = [model(torch.tensor([text]), labels=torch.tensor([text])).loss * (len(text) - 1) for text in TEXTS]
    return torch.stack(losses).sum() / sum(len(text) - 1 for text in TEXTS)


def plain_name(name: str) -> str:
    """PEFT's parameter under the name that it has in a file."""
    return (
        name.removeprefix("base_model.model.")
        .replace("modules_to_save.default.", "")
        .replace(".default.weight", "" if "magnitude" in name else ".weight")
        .replace(".default", "")
    )


@every_case
def test_what_peft_writes_computes_the_same_here(case: Case, tmp_path: Path) -> None:
    theirs = their_adapter(case)
    theirs.save_pretrained(tmp_path / "adapter")
    model = ours(llama(case.model), tmp_path / "base")
    with torch.no_grad():
        base = packed_logits(model, TEXTS)
    adapter = load_adapter(model, tmp_path / "adapter")
    assert largest_difference(packed_logits(model, TEXTS), their_logits(theirs, TEXTS)) < 1e-5
    assert largest_difference(packed_logits(model, TEXTS), base) > 0.05
    with adapter.disabled(), torch.no_grad():
        assert torch.equal(packed_logits(model, TEXTS), base)
    our_loss(model).backward()
    their_loss(theirs).backward()
    wanted = {plain_name(name): p.grad for name, p in theirs.named_parameters() if p.requires_grad}
    found = adapter.named_parameters()
    assert found.keys() == wanted.keys()
    for name, parameter in found.items():
        assert parameter.grad is not None, name
        assert wanted[name] is not None, name
        assert float(wanted[name].abs().max()) > 1e-5, name
        assert largest_difference(parameter.grad, wanted[name]) < 1e-5, name


@every_case
def test_what_we_write_computes_the_same_in_peft(case: Case, tmp_path: Path) -> None:
    model = ours(llama(case.model), tmp_path / "base")
    adapter = our_adapter(case, model)
    folder = tmp_path / "adapter"
    folder.mkdir()
    save_adapter(folder, adapter, base="owner/base")
    theirs = peft.PeftModel.from_pretrained(llama(case.model), folder).eval()
    with torch.no_grad():
        expected = packed_logits(model, TEXTS)
        assert largest_difference(their_logits(theirs, TEXTS), expected) < 1e-5
        again = ours(llama(case.model), tmp_path / "again")
        loaded = load_adapter(again, folder)
        assert torch.equal(packed_logits(again, TEXTS), expected)
    assert list(loaded.tensors()) == list(adapter.tensors())
    assert_same_tensors(adapter.tensors(), loaded.tensors())


@every_case
def test_folded_into_the_base_it_computes_the_same(case: Case, tmp_path: Path) -> None:
    model = ours(llama(case.model), tmp_path / "base")
    with torch.no_grad():
        base = packed_logits(model, TEXTS)
    adapter = our_adapter(case, model)
    # A head that has parted from its embedding, or a bias where there was none, needs a model that has room for it.
    whole = llama(case.model | {"tie_word_embeddings": False, "attention_bias": True, "mlp_bias": True})
    with torch.no_grad():
        state = {name: torch.zeros_like(tensor) for name, tensor in whole.state_dict().items()}
        state |= llama(case.model).state_dict()
        state |= {name: tensor.float() for name, tensor in adapter.merged()}
        whole.load_state_dict(state)
        assert largest_difference(their_logits(whole, TEXTS), packed_logits(model, TEXTS)) < 1e-5
        with adapter.disabled():
            assert torch.equal(packed_logits(model, TEXTS), base)


def test_all_biases_are_those_of_norms_too(tmp_path: Path) -> None:
    """StableLM's norms have some. PEFT trains everything with `bias` in its name."""
    base = tiny("stablelm", changes={"use_qkv_bias": True})
    model = ours(base, tmp_path / "base")
    spec = LoraSpec(rank=2, alpha=4.0, target_modules=("q_proj",), bias=Bias.ALL)
    adapter = inject(model, spec)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    names = [name for name in adapter.tensors() if name.endswith("norm.bias")]
    assert len(names) == 2 * 2 + 1
    planned = Setup(spec=model.spec, method=Method.LORA, dtype=torch.float32, lora=spec)
    assert planned.trained_weights == sum(parameter.numel() for parameter in adapter.parameters())
    (tmp_path / "adapter").mkdir()
    save_adapter(tmp_path / "adapter", adapter, base="base")
    texts = documents([9, 4])
    with torch.no_grad():
        theirs = peft.PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
        assert largest_difference(packed_logits(model, texts), their_logits(theirs, texts)) < 1e-4
    again = ours(tiny("stablelm", changes={"use_qkv_bias": True}), tmp_path / "again")
    theirs.save_pretrained(tmp_path / "from peft")
    load_adapter(again, tmp_path / "from peft")
    with torch.no_grad():
        assert largest_difference(packed_logits(again, texts), packed_logits(model, texts)) < 1e-5
