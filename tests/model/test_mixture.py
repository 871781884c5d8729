from __future__ import annotations

from typing import Any

import pytest

from helpers.models.tiny_mixtures import KINDS, SHAPES, tiny_mixture
from veneer.errors import ModelError
from veneer.model.families.choose import spec_from_hf
from veneer.model.mixture import DOWN, GATE_UP, check_mixture


@pytest.mark.parametrize("kind", KINDS)
def test_paths_and_sizes_are_those_of_transformers_parameters(kind: str) -> None:
    theirs = tiny_mixture(kind, num_hidden_layers=3)
    spec = spec_from_hf(theirs.config.to_dict()).mixture
    assert spec is not None
    held = dict(theirs.named_parameters())
    assert spec.parameters(3) == [name for name in held if name.endswith((GATE_UP, DOWN))]
    assert [f"{path}.weight" for path in spec.routers(3)] == [
        name for name in held if name.endswith(f".mlp.{spec.router}.weight")
    ]
    hidden = SHAPES["hidden_size"]
    for path in spec.parameters(3):
        leaf = path.rpartition(".")[2]
        sizes = [spec.outputs_of(leaf, hidden), spec.inputs_of(leaf, hidden)]
        # gpt-oss holds [experts, in, out].
        assert list(held[path].shape) == [spec.experts, *(reversed(sizes) if kind == "gpt_oss" else sizes)]


def test_dense_layers_have_neither_experts_nor_a_router() -> None:
    theirs = tiny_mixture("qwen3_moe", mlp_only_layers=[1], num_hidden_layers=3)
    spec = spec_from_hf(theirs.config.to_dict()).mixture
    assert spec is not None
    assert spec.layers(3) == [0, 2]
    assert all(".1." not in path for path in (*spec.parameters(3), *spec.routers(3)))
    assert len(spec.parameters(3)) == 2 * len(spec.routers(3)) == 4


GOOD: dict[str, Any] = {"model_type": "mixtral", "n": 4, "inner": 8, "num_experts_per_tok": 4}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"n": 0, "inner": None}, ["n: 0, must", "inner: None, must", "'mixtral'"]),
        ({"n": True}, ["n: True"]),
        ({"inner": 8.0}, ["inner: 8.0"]),
        ({"num_experts_per_tok": 5}, ["num_experts_per_tok: 5, of 4 experts"]),
    ],
)
def test_numbers_that_cannot_be_are_all_named(changes: dict[str, Any], words: list[str]) -> None:
    check_mixture(GOOD, "n", "inner")
    with pytest.raises(ModelError) as caught:
        check_mixture(GOOD | changes, "n", "inner")
    assert [word for word in words if word not in str(caught.value)] == []
