"""What is kept for backward is counted to the byte."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from helpers.models.planned_models import really_kept
from helpers.models.tiny_models import ours, saved_for_backward, tiny_llama
from helpers.training.plan_setups import FORMS, adapters, two_documents
from veneer.adapters.inject import inject
from veneer.adapters.spec import LoraSpec
from veneer.config import DpoSection
from veneer.data.encoded.chat import Example
from veneer.data.micro_batches.packing import pack
from veneer.enums import Bias, Factors, Init, Method, ObjectiveName, Variant
from veneer.io.checkpoint import Checkpoint
from veneer.loading.how import Loading
from veneer.loading.load import load_model
from veneer.model.recompute import Recomputation
from veneer.native.library import kernels
from veneer.planning.activations import kept_activations
from veneer.planning.batch_shape import BatchShape
from veneer.planning.setup import Setup
from veneer.training.objectives.dpo import Dpo
from veneer.training.objectives.reference import ReferenceTable
from veneer.training.over_model import OverModel


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize(("method", "targets", "dropout", "recompute"), adapters())
def test_what_is_kept_is_what_autograd_keeps(
    method: Method, targets: Any, dropout: float, recompute: bool, dtype: torch.dtype, checkpoint: Checkpoint,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    model = load_model(checkpoint, Loading(form=FORMS[method], dtype=dtype))
    generator = None
    if method is not Method.FULL:
        spec = LoraSpec(rank=4, alpha=8.0, dropout=dropout, target_modules=targets)
        generator = inject(model, spec).generator
    model.train()
    if recompute:
        model.model.recomputation = Recomputation(generator)
    (batch,) = pack(two_documents(), 200)
    really = really_kept(model, batch, monkeypatch, recompute=recompute)
    of = Setup(
        spec=model.spec,
        method=method,
        dtype=dtype,
        lora=LoraSpec(rank=4, alpha=8.0, dropout=dropout, target_modules=targets),
    )
    cut = BatchShape(tokens=len(batch.tokens), longest=40, supervised=batch.supervised)
    assert kept_activations(of, cut, recompute=recompute) == really


@pytest.mark.parametrize("most", [90, 10**6])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_pairs_keep_what_is_counted_for_their_blocks(
    dtype: torch.dtype, most: int, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every pair behind its own prompt. By the compiled kernel attention makes one output of all blocks, and a step
    keeps as much as one of fine-tuning on as many tokens."""
    model = load_model(checkpoint, Loading(dtype=dtype))
    lora = LoraSpec(rank=4, alpha=8.0)
    inject(model, lora)
    model.train()
    first, second = two_documents()
    rows = [*_pair(first, 1), *_pair(second, 2)]
    batch = pack(rows, most, together=2)[0]
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    objective = OverModel(model, Dpo(DpoSection(), ReferenceTable(np.zeros(4))))
    with saved_for_backward(monkeypatch) as found:
        objective.sums(batch)
    really = sum(tensor.untyped_storage().nbytes() for place, tensor in found.items() if place not in own)
    of = Setup(spec=model.spec, method=Method.LORA, dtype=dtype, lora=lora, objective=ObjectiveName.DPO)
    blocks = max(1, len(batch.blocks))
    cut = BatchShape(tokens=len(batch.tokens), longest=40, supervised=batch.supervised, blocks=blocks, together=2,
                     documents=len(batch.lengths))  # fmt: skip
    assert 0 <= kept_activations(of, cut, recompute=False) - really < 1000, "but for a few numbers a pair"
    if kernels() is not None:
        plain = replace(cut, blocks=1, together=1)
        assert really <= 1.02 * kept_activations(replace(of, objective=ObjectiveName.SFT), plain, recompute=False)


def _pair(example: Example, token: int) -> list[Example]:
    """Two answers behind one beginning."""
    other = example.tokens.copy()
    other[len(other) // 2 :] = token
    return [example, Example(other, example.loss_mask, example.where)]


KINDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "dora": ({"variant": Variant.DORA}, {}),
    "dora with dropout": ({"variant": Variant.DORA, "dropout": 0.1}, {}),
    "b alone": ({"factors": Factors.B}, {}),
    "b alone with dropout": ({"factors": Factors.B, "dropout": 0.1, "target_modules": ("v_proj", "up_proj")}, {}),
    "a start that is subtracted": ({"init": Init.PISSA}, {}),
    "patterns": ({"rank_pattern": {"down_proj": 7, "q_proj": 2}}, {}),
    "embedding": ({"target_modules": ("embed_tokens", "v_proj")}, {}),
    "embedding by dora": ({"target_modules": ("embed_tokens", "v_proj"), "variant": Variant.DORA}, {}),
    "head": ({"target_modules": ("lm_head", "v_proj")}, {}),
    "head by dora": ({"target_modules": ("lm_head", "v_proj"), "variant": Variant.DORA}, {}),
    "head, b alone": ({"target_modules": ("lm_head", "v_proj"), "factors": Factors.B}, {}),
    "a saved head": ({"modules_to_save": ("lm_head",)}, {}),
    "a saved embedding": ({"modules_to_save": ("embed_tokens",), "tied_modules": True}, {}),
    "a saved embedding and a head": (
        {"target_modules": ("lm_head", "v_proj"), "modules_to_save": ("embed_tokens",), "tied_modules": True},
        {},
    ),
    "biases beside a saved layer": (
        {"bias": Bias.ALL, "target_modules": ("q_proj",), "modules_to_save": ("o_proj",)},
        {"attention_bias": True},
    ),
    "saved norms": ({"modules_to_save": ("norm", "input_layernorm")}, {}),
    "a saved layer": ({"target_modules": ("q_proj",), "modules_to_save": ("up_proj",)}, {}),
    "biases": ({"bias": Bias.ALL, "target_modules": ("q_proj",)}, {"attention_bias": True}),
    "tokens": ({"trainable_tokens": {"model.embed_tokens": (3, 5)}}, {}),
}


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_adapter_is_counted(
    kind: str, tied: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, changes = KINDS[kind]
    lora = LoraSpec(**({"rank": 4, "alpha": 8.0} | settings))
    model = ours(tiny_llama(changes=changes | {"tie_word_embeddings": tied}), tmp_path, dtype=torch.bfloat16)
    adapter = inject(model, lora)
    model.train()
    (batch,) = pack(two_documents(), 200)
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    with saved_for_backward(monkeypatch) as found:
        OverModel(model).sums(batch)
    really = sum(tensor.untyped_storage().nbytes() for place, tensor in found.items() if place not in own)
    of = Setup(spec=model.spec, method=Method.LORA, dtype=torch.bfloat16, lora=lora)
    cut = BatchShape(tokens=len(batch.tokens), longest=40, supervised=batch.supervised)
    if of.head_is_adapted:
        # The head's own pass is over, and what it kept is gone, when the loss is there.
        rows = torch.zeros(batch.supervised, model.spec.hidden_size, dtype=torch.bfloat16, requires_grad=True)
        with saved_for_backward(monkeypatch) as by_head:
            model.lm_head(rows)
        really -= sum(tensor.untyped_storage().nbytes() for place, tensor in by_head.items() if place not in own)
    assert kept_activations(of, cut, recompute=False) == really
    assert of.trained_weights == sum(tensor.numel() for tensor in adapter.parameters())
