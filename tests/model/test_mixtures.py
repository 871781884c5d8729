"""Mixtures against transformers: logits packed and from a cache, past the window, with every option of a family."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from helpers.models.tiny_mixtures import KINDS, tiny_mixture
from helpers.models.tiny_models import BACKENDS, documents, largest_difference, packed_logits, their_logits, use_backend
from veneer.io.checkpoint import open_checkpoint
from veneer.loading.forms import WeightForm
from veneer.loading.how import Loading
from veneer.loading.load import load_model
from veneer.model.attention import PackedAttention
from veneer.model.cache import KVCache
from veneer.model.decoder import CausalLM
from veneer.quant.packed import PackedLinear

TEXTS = documents([31, 4, 19, 12], seed=8)
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 16}
OPTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "mixtral": ("mixtral", {}),
    "mixtral with a window": ("mixtral", {"sliding_window": 7}),
    "mixtral, eight experts, three a token": ("mixtral", {"num_local_experts": 8, "num_experts_per_tok": 3}),
    "mixtral, one expert a token": ("mixtral", {"num_experts_per_tok": 1, "tie_word_embeddings": True}),
    "qwen3": ("qwen3_moe", {}),
    "qwen3, weights as they come": ("qwen3_moe", {"norm_topk_prob": False}),
    "qwen3 with dense layers by number": ("qwen3_moe", {"mlp_only_layers": [0]}),
    "qwen3 with dense layers by step": ("qwen3_moe", {"decoder_sparse_step": 2, "num_hidden_layers": 3}),
    "qwen3 with a window and biases": (
        "qwen3_moe", {"use_sliding_window": True, "sliding_window": 5, "attention_bias": True},
    ),
    "qwen3 with yarn": ("qwen3_moe", {"rope_parameters": YARN}),
    "gpt-oss": ("gpt_oss", {}),
    "gpt-oss, other layers slide": ("gpt_oss", {"layer_types": ["full_attention", "sliding_attention"]}),
    "gpt-oss without biases": ("gpt_oss", {"attention_bias": False, "swiglu_limit": 7.0, "num_experts_per_tok": 4}),
}  # fmt: skip


def both(option: str, folder: Path, seed: int = 0) -> tuple[PreTrainedModel, CausalLM]:
    kind, changes = OPTIONS[option]
    theirs = tiny_mixture(kind, seed, **changes)
    theirs.save_pretrained(folder)
    return theirs, load_model(open_checkpoint(folder), Loading(dtype=torch.float32)).eval()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("option", OPTIONS)
def test_logits_of_packed_documents(option: str, backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_backend(backend, monkeypatch)
    theirs, model = both(option, tmp_path)
    with torch.no_grad():
        assert largest_difference(packed_logits(model, TEXTS), their_logits(theirs, TEXTS)) < 1e-4


@pytest.mark.parametrize("option", OPTIONS)
def test_logits_from_a_cache(option: str, tmp_path: Path) -> None:
    theirs, model = both(option, tmp_path, seed=1)
    starts = [len(text) - 3 for text in TEXTS]
    with torch.no_grad():
        expected = torch.split(their_logits(theirs, TEXTS), [len(text) for text in TEXTS])
        cache = KVCache(model.spec, len(TEXTS), 40, dtype=torch.float32)
        tokens = torch.tensor([token for text, start in zip(TEXTS, starts, strict=True) for token in text[:start]])
        positions = torch.cat([torch.arange(start) for start in starts])
        model.hidden(tokens, positions, cache.prefill(starts))
        for step in range(3):
            at = torch.tensor([start + step for start in starts])
            tokens = torch.tensor([text[place] for text, place in zip(TEXTS, at.tolist(), strict=True)])
            found = model.logits(model.hidden(tokens, at, cache.step()))
            wanted = torch.stack([rows[place] for rows, place in zip(expected, at.tolist(), strict=True)])
            assert largest_difference(found, wanted) < 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_a_common_beginning_that_is_computed_once(kind: str, tmp_path: Path) -> None:
    theirs = tiny_mixture(kind, 2)
    theirs.save_pretrained(tmp_path)
    model = load_model(open_checkpoint(tmp_path), Loading(dtype=torch.float32)).eval()
    front, rests = documents([9], seed=3)[0], documents([8, 14], seed=4)
    tokens = torch.tensor([*front, *rests[0], *rests[1]])
    positions = torch.cat([torch.arange(9), torch.arange(9, 17), torch.arange(9, 23)])
    with torch.no_grad():
        found = model.logits(model.hidden(tokens, positions, PackedAttention([8, 14], shared=9)))
        expected = torch.split(their_logits(theirs, [[*front, *rest] for rest in rests]), [17, 23])
        assert largest_difference(found[9:17], expected[0][9:]) < 1e-4
        assert largest_difference(found[17:], expected[1][9:]) < 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_full_fine_tuning_has_transformers_gradients(kind: str, tmp_path: Path) -> None:
    theirs = tiny_mixture(kind, 5)
    theirs.save_pretrained(tmp_path)
    model = load_model(open_checkpoint(tmp_path), Loading(form=WeightForm.TRAINABLE, dtype=torch.float32))
    weight = torch.randn(sum(map(len, TEXTS)), 96, generator=torch.Generator().manual_seed(6)) / 50
    (packed_logits(model, TEXTS) * weight).sum().backward()
    (their_logits(theirs, TEXTS) * weight).sum().backward()
    own = dict(model.named_parameters())
    for name, parameter in theirs.named_parameters():
        if ".experts." not in name and parameter.grad is not None:
            found = own[name].grad
            assert found is not None
            assert largest_difference(found, parameter.grad) < 1e-4, name
    down = theirs.model.layers[0].mlp.experts.down_proj.grad
    for number in range(4):
        grad = own[f"model.layers.0.mlp.experts.{number}.down_proj.weight"].grad
        want = down[number].t() if kind == "gpt_oss" else down[number]
        assert largest_difference(torch.zeros_like(want) if grad is None else grad, want) < 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_the_base_of_qlora_has_its_experts_in_4_bits_and_its_router_as_it_is(kind: str, tmp_path: Path) -> None:
    tiny_mixture(kind, 7).save_pretrained(tmp_path)
    model = load_model(open_checkpoint(tmp_path), Loading(form=WeightForm.QUANTIZED, dtype=torch.bfloat16))
    packed = {name for name, module in model.named_modules() if isinstance(module, PackedLinear)}
    assert {name.rpartition(".")[2] for name in packed} == {
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
    }  # fmt: skip
    assert len(packed) == 2 * (4 + 3 * 4)


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_stays_close(kind: str, tmp_path: Path) -> None:
    theirs = tiny_mixture(kind, 8)
    theirs.save_pretrained(tmp_path)
    model = load_model(open_checkpoint(tmp_path), Loading(dtype=torch.bfloat16)).eval()
    halved = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16).eval()
    with torch.no_grad():
        exact = their_logits(theirs, TEXTS)
        # The middle token: one that goes to another expert, in either program, is off by as much as experts differ.
        ours = float((packed_logits(model, TEXTS).float() - exact).abs().mean(1).median())
        other = float((their_logits(halved, TEXTS).float() - exact).abs().mean(1).median())
        assert ours < 1.2 * other
