"""An adapter on a view computes what it computes on a model of its own, and the base does not notice."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from peft_folders import write_adapter
from tiny_models import documents, largest_difference, ours, packed_logits, tiny_llama
from veneer.adapters.store import load_adapter
from veneer.adapters.view import step_factors, view_of
from veneer.enums import Variant
from veneer.model.decoder import CausalLM

KINDS: dict[str, dict[str, object]] = {
    "plain": {},
    "ranks": {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"v_proj": 9.0}},
    "bias of B": {"factor_bias": True},
    "DoRA": {"variant": Variant.DORA},
    "embedding": {"target_modules": ("embed_tokens", "q_proj")},
    "head": {"target_modules": ("lm_head", "q_proj")},
    "saved norm": {"modules_to_save": ("norm",)},
}


def base(tmp_path: Path) -> CausalLM:
    model = ours(tiny_llama(seed=2, changes={"tie_word_embeddings": False}), tmp_path)
    model.eval()
    return model


@pytest.mark.parametrize("kind", KINDS)
def test_views_compute_their_adapters_and_leave_the_base(kind: str, tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    folder.mkdir()
    alone = base(tmp_path)
    write_adapter(folder, alone, **KINDS[kind])
    shared, texts = base(tmp_path), documents([9, 4])
    with torch.no_grad():
        before = packed_logits(shared, texts)
        weights = {name: tensor.clone() for name, tensor in shared.state_dict().items()}
        view = view_of(shared)
        load_adapter(view, folder)
        other = view_of(shared)
        alone.eval()
        view.eval()
        assert torch.equal(packed_logits(view, texts), packed_logits(alone, texts))
        assert largest_difference(packed_logits(view, texts), before) > 1e-3
        for untouched in (shared, other):
            assert torch.equal(packed_logits(untouched, texts), before)
        assert shared.state_dict().keys() == weights.keys()
        assert all(torch.equal(tensor, weights[name]) for name, tensor in shared.state_dict().items())


def test_a_view_takes_no_memory_for_weights(tmp_path: Path) -> None:
    model = base(tmp_path)
    assert {p.data_ptr() for p in view_of(model).parameters()} == {p.data_ptr() for p in model.parameters()}


@pytest.mark.parametrize("kind", KINDS)
def test_factors_are_those_of_low_rank_updates_alone(kind: str, tmp_path: Path) -> None:
    model = base(tmp_path)
    folder = tmp_path / "adapter"
    folder.mkdir()
    adapter = write_adapter(folder, model, **KINDS[kind])
    sites = frozenset(model.linear_paths())
    factors = step_factors(adapter, sites, torch.float32)
    assert (factors is not None) == (kind in ("plain", "ranks", "bias of B"))
    if factors is None:
        return
    assert factors.layers.keys() == adapter.updates().keys()
    for path, layer in adapter.updates().items():
        own = factors.layers[path]
        assert torch.allclose(own.scale * own.up.t() @ own.down, layer.delta(), atol=1e-6)
    assert step_factors(adapter, sites - {"model.layers.0.self_attn.q_proj"}, torch.float32) is None
    narrow = step_factors(adapter, sites, torch.bfloat16)
    assert narrow is not None
    assert narrow.nbytes < factors.nbytes
