"""Updates by LoRA and DoRA have factors for the compiled step; every other kind of adapter has none."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from helpers.adapters.peft_folders import write_adapter
from helpers.models.tiny_models import ours, tiny_llama
from veneer.adapters.layers.step_factors import step_factors
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
def test_factors_are_those_of_low_rank_updates_alone(kind: str, tmp_path: Path) -> None:
    model = base(tmp_path)
    folder = tmp_path / "adapter"
    folder.mkdir()
    adapter = write_adapter(folder, model, **KINDS[kind])
    paths = frozenset(model.linear_paths())
    factors = step_factors(adapter, paths, torch.float32)
    assert (factors is not None) == (kind in ("plain", "ranks", "bias of B", "DoRA"))
    if factors is None:
        return
    assert factors.keys() == adapter.updates().keys()
    for path, layer in adapter.updates().items():
        own = factors[path]
        assert torch.allclose(own.scale * own.up.t() @ own.down, layer.delta(), atol=1e-6)
        assert (own.gain is not None) == (kind == "DoRA")
    assert step_factors(adapter, paths - {"model.layers.0.self_attn.q_proj"}, torch.float32) is None
    narrow = step_factors(adapter, paths, torch.bfloat16)
    assert narrow is not None
    tensors = [tensor for layer in narrow.values() for tensor in (layer.down, layer.up)]
    assert sum(tensor.nbytes for tensor in tensors) < sum(
        tensor.nbytes for layer in factors.values() for tensor in layer.tensors
    )
    assert all(tensor.dtype == torch.bfloat16 for tensor in tensors)
    assert len({tensor.untyped_storage().data_ptr() for tensor in tensors}) == 1
    gains = [layer.gain for layer in narrow.values() if layer.gain is not None]
    assert len({gain.untyped_storage().data_ptr() for gain in gains}) == (kind == "DoRA")
    assert all(tensor.data_ptr() % 64 == tensors[0].data_ptr() % 64 for tensor in tensors)


def test_factors_are_for_tiles_where_they_have_whole_ones(tmp_path: Path) -> None:
    """Rank 16 has them; rank 2 of the queries has not, nor have the 48 inputs of `down_proj`."""
    model = base(tmp_path)
    folder = tmp_path / "adapter"
    folder.mkdir()
    adapter = write_adapter(folder, model, rank=16, rank_pattern={"q_proj": 2})
    found = step_factors(adapter, frozenset(model.linear_paths()), torch.bfloat16, tiles=True)
    assert found is not None
    modules = dict(adapter.modules)
    assert {path.rpartition(".")[2] for path, layer in found.items() if not layer.in_tiles} == {
        "q_proj",
        "down_proj",
    }
    for path, layer in found.items():
        a, b = modules[path].pairs()
        down = layer.down.transpose(1, 2).flatten(0, 1).t() if layer.in_tiles else layer.down
        assert torch.equal(down, a.bfloat16())
        assert torch.equal(layer.up.transpose(1, 2).flatten(0, 1)[: len(a)], b.t().bfloat16())
