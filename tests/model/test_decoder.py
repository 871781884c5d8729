"""The decoder is transformers' Llama: the same logits and the same gradients from the same files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM

from helpers.models.tiny_models import (
    BACKENDS,
    documents,
    largest_difference,
    ours,
    packed_hidden,
    packed_logits,
    saved,
    their_logits,
    tiny_llama,
    use_backend,
)
from helpers.support import smollm2_gguf
from veneer.io.checkpoint import open_checkpoint
from veneer.loading.forms import WeightForm
from veneer.loading.how import Loading
from veneer.loading.load import load_model
from veneer.losses.linear_head import linear_cross_entropy
from veneer.model.decoder import CausalLM

VARIANTS: dict[str, dict[str, Any]] = {
    "grouped": {},
    "multi-head": {"num_key_value_heads": 4},
    "multi-query": {"num_key_value_heads": 1},
    "tied": {"tie_word_embeddings": True},
    "wide heads": {"head_dim": 32},
    "odd heads": {"head_dim": 10},
    "biases": {"attention_bias": True, "mlp_bias": True},
    "attention bias": {"attention_bias": True},
    "linear": {"rope_parameters": {"rope_type": "linear", "rope_theta": 10_000.0, "factor": 4.0}},
    "llama3": {
        "rope_parameters": {
            "rope_type": "llama3", "rope_theta": 1000.0, "factor": 4.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 64,
        }
    },
    "another base": {"rope_parameters": {"rope_type": "default", "rope_theta": 500_000.0}, "rms_norm_eps": 0.1},
}  # fmt: skip
LENGTHS = [[23], [1], [9, 9, 9], [31, 1, 7, 30]]


@pytest.fixture(autouse=True, params=BACKENDS)
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    use_backend(request.param, monkeypatch)
    return str(request.param)


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_equal_transformers(variant: str, tmp_path: Path) -> None:
    theirs = tiny_llama(seed=len(variant), changes=VARIANTS[variant])
    model = ours(theirs, tmp_path)
    for lengths in LENGTHS:
        texts = documents(lengths, seed=sum(lengths))
        with torch.no_grad():
            expected, logits = their_logits(theirs, texts), packed_logits(model, texts)
        assert float(expected.std()) > 0.3  # so that 1e-4 says something
        assert largest_difference(logits, expected) < 1e-4


def test_late_positions_of_scaled_rope_equal_transformers(tmp_path: Path) -> None:
    theirs = tiny_llama(changes=VARIANTS["llama3"])
    texts = documents([256])
    with torch.no_grad():
        assert largest_difference(packed_logits(ours(theirs, tmp_path), texts), their_logits(theirs, texts)) < 1e-4


def test_a_model_in_several_files_equals_transformers(tmp_path: Path) -> None:
    theirs = tiny_llama()
    checkpoint = saved(theirs, tmp_path, max_shard_size="60KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    texts = documents([12, 5])
    with torch.no_grad():
        logits = packed_logits(load_model(checkpoint, Loading(dtype=torch.float32)), texts)
        assert largest_difference(logits, their_logits(theirs, texts)) < 1e-4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_packed_documents_equal_separate_ones(dtype: torch.dtype, tmp_path: Path) -> None:
    model = ours(tiny_llama(), tmp_path, dtype=dtype)
    texts = documents([31, 1, 7, 30, 8])
    with torch.no_grad():
        together = packed_logits(model, texts)
        apart = torch.cat([packed_logits(model, [text]) for text in texts])
    # Products of another height may round otherwise.
    assert largest_difference(together, apart) < (1e-5 if dtype == torch.float32 else 0.1)


def test_another_document_does_not_show_in_the_logits(tmp_path: Path) -> None:
    model = ours(tiny_llama(), tmp_path)
    texts, others = documents([20, 9, 14]), documents([20, 9, 14], seed=1)
    with torch.no_grad():
        before = packed_logits(model, texts)
        after = packed_logits(model, [texts[0], others[1], texts[2]])
    assert torch.equal(before[:20], after[:20])
    assert torch.equal(before[29:], after[29:])
    assert not torch.equal(before[20:29], after[20:29])


def loss_of(model: CausalLM, texts: list[list[int]]) -> Tensor:
    """The sum of the cross-entropies of every token but the first, as the engine computes it."""
    starts = torch.tensor([len(text) for text in texts]).cumsum(0)
    last = torch.zeros(int(starts[-1]), dtype=torch.bool)
    last[starts - 1] = True
    targets = torch.tensor([token for text in texts for token in text[1:]])
    return linear_cross_entropy(packed_hidden(model, texts)[~last], model.lm_head.weight, targets, chunk=7)


def their_loss(model: LlamaForCausalLM, texts: list[list[int]]) -> Tensor:
    losses = [
        functional.cross_entropy(model(torch.tensor([text])).logits[0, :-1], torch.tensor(text[1:]), reduction="sum")
        for text in texts
    ]
    return torch.stack(losses).sum()


@pytest.mark.parametrize("variant", ["grouped", "tied", "biases", "llama3", "odd heads"])
def test_gradients_of_every_weight_equal_transformers(variant: str, tmp_path: Path) -> None:
    theirs = tiny_llama(seed=3, changes=VARIANTS[variant])
    model = ours(theirs, tmp_path, form=WeightForm.TRAINABLE)
    texts = documents([21, 2, 13, 12])
    tokens = sum(len(text) - 1 for text in texts)
    loss, expected = loss_of(model, texts) / tokens, their_loss(theirs, texts) / tokens
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-6)
    loss.backward()
    expected.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    references = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    assert gradients.keys() == references.keys()
    for name, reference in references.items():
        gradient = gradients[name]
        assert gradient is not None
        assert reference is not None
        assert gradient.dtype == torch.float32
        assert float(reference.abs().max()) > 1e-3, name
        assert largest_difference(gradient, reference) < 1e-4 * max(1.0, float(reference.abs().max())), name


def test_a_frozen_model_has_no_gradient_and_the_same_logits(tmp_path: Path) -> None:
    theirs = tiny_llama()
    frozen, trainable = ours(theirs, tmp_path), ours(theirs, tmp_path, form=WeightForm.TRAINABLE)
    texts = documents([9, 4])
    assert not packed_logits(frozen, texts).requires_grad
    assert torch.equal(packed_logits(frozen, texts), packed_logits(trainable, texts).detach())


def test_bfloat16_is_as_close_to_float32_as_transformers_is(tmp_path: Path) -> None:
    theirs = tiny_llama(seed=5)
    narrow, model = ours(theirs, tmp_path, dtype=torch.bfloat16), ours(theirs, tmp_path)
    texts = documents([40, 17])
    with torch.no_grad():
        exact = packed_logits(model, texts)
        rounded = packed_logits(narrow, texts)
        reference = their_logits(theirs.bfloat16(), texts)
    assert rounded.dtype == torch.bfloat16
    mine, other = (float((x.float() - exact).square().mean().sqrt()) for x in (rounded, reference))
    assert mine < 1.15 * other


def test_smollm2_from_gguf_equals_transformers(backend: str) -> None:
    checkpoint = open_checkpoint(smollm2_gguf())
    model = load_model(checkpoint, Loading(dtype=torch.float32))
    with torch.device("meta"):
        theirs = LlamaForCausalLM(LlamaConfig(**checkpoint.config)).eval()
    # The model multiplies with the file's blocks; transformers gets them decoded.
    decoded = load_model(checkpoint, Loading(form=WeightForm.TRAINABLE, dtype=torch.float32))
    state = {name: parameter.data for name, parameter in decoded.named_parameters()}
    missing = theirs.load_state_dict(state, assign=True, strict=False)
    assert (missing.missing_keys, missing.unexpected_keys) == (["lm_head.weight"], [])
    theirs.tie_weights()
    # Built on meta, its frequencies hold nothing yet.
    rope = type(theirs.model.rotary_emb)(theirs.config)
    theirs.model.rotary_emb = rope
    texts = documents([37, 5], vocab=49152)
    with torch.no_grad():
        ours, own = packed_logits(model, texts), their_logits(theirs, texts)
        exact = their_logits(theirs.double(), texts)
    # This model's first token has activations of thousands, beside which float32 loses 4 digits whoever multiplies: the
    # reference is transformers in float64, and the measure is what transformers loses in float32.
    mine, other = (float((x.double() - exact).square().mean().sqrt()) for x in (ours, own))
    assert other < 1e-4
    assert mine < 1.5 * other
