"""EVA's directions are those of most variance."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from helpers.models.tiny_models import documents, largest_difference, ours, packed_logits, tiny_llama
from veneer.adapters.eva import directions
from veneer.errors import AdapterError


@dataclass(frozen=True, kw_only=True)
class Documents:
    tokens: Tensor
    positions: Tensor
    segments: tuple[int, ...]
    rows: Tensor
    shared: int = 0


def test_eva_spans_what_the_inputs_vary_in_most(tmp_path: Path) -> None:
    texts = documents([40, 33, 21], seed=2)
    model = ours(tiny_llama(), tmp_path)
    paths = [path for path in model.linear_paths() if path.endswith(("q_proj", "v_proj", "o_proj", "down_proj"))]
    seen: dict[str, list[Tensor]] = {}
    handles = [
        model.get_submodule(path).register_forward_pre_hook(
            lambda module, inputs, path=path: seen.setdefault(path, []).append(inputs[0])
        )
        for path in [*paths, "lm_head"]
    ]
    rows = torch.arange(5, 90)
    with torch.no_grad():
        packed_logits(model, texts)
    for handle in handles:
        handle.remove()
    one = Documents(
        tokens=torch.tensor([token for text in texts for token in text]),
        positions=torch.cat([torch.arange(len(text)) for text in texts]),
        segments=tuple(len(text) for text in texts),
        rows=rows,
    )
    found = directions(model, [one], dict.fromkeys([*paths, "lm_head"], 5))
    for path in [*paths, "lm_head"]:
        x = torch.cat(seen[path])[rows].double()
        values, vectors = torch.linalg.eigh(torch.cov(x.t()))
        a = found[path].double()
        assert largest_difference(a @ a.t(), torch.eye(5, dtype=torch.float64)) < 1e-5
        captured = float(torch.trace(a @ torch.cov(x.t()) @ a.t()))
        assert captured == pytest.approx(float(values[-5:].sum()), rel=1e-5), path
        assert float((a[0] @ vectors[:, -1]).abs()) == pytest.approx(1.0, abs=1e-5)


def test_without_an_adapted_linear_layer_nothing_is_measured(tmp_path: Path) -> None:
    assert directions(ours(tiny_llama(), tmp_path), [], {}) == {}


def test_eva_needs_more_rows_than_directions(tmp_path: Path) -> None:
    model = ours(tiny_llama(), tmp_path)
    tokens = torch.arange(8)
    few = Documents(tokens=tokens, positions=tokens, segments=(8,), rows=torch.arange(4))
    with pytest.raises(AdapterError, match="rank 4 needs more than 4 supervised tokens to measure; there are 4"):
        directions(model, [few], {"model.layers.0.self_attn.q_proj": 4})
