"""Targets name layers as in PEFT, and what matches nothing is listed."""

from __future__ import annotations

import pytest

from helpers.adapters.random_adapters import PATHS
from veneer.adapters.targets import resolve_targets
from veneer.errors import AdapterError


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        ("all-linear", PATHS),
        (["q_proj"], [p for p in PATHS if p.endswith("q_proj")]),
        (["down_proj", "k_proj"], [p for p in PATHS if p.endswith(("k_proj", "down_proj"))]),
        (["self_attn.q_proj", "mlp.up_proj"], [p for p in PATHS if p.endswith(("q_proj", "up_proj"))]),
        (["layers.1.mlp.up_proj"], ["model.layers.1.mlp.up_proj"]),
        (["model.layers.0.self_attn.v_proj"], ["model.layers.0.self_attn.v_proj"]),
        (["q_proj", "self_attn.q_proj", "q_proj"], [p for p in PATHS if p.endswith("q_proj")]),
        (r".*\.(q|v)_proj", [p for p in PATHS if p.endswith(("q_proj", "v_proj"))]),
        (r"model\.layers\.1\..*", [p for p in PATHS if ".1." in p]),
        (r".*_proj", PATHS),
        (r".*", ["model.embed_tokens", *PATHS, "lm_head"]),
        (["lm_head", "v_proj", "embed_tokens"], ["model.embed_tokens", *PATHS[2::7], "lm_head"]),
    ],
)
def test_targets_choose_layers_by_names_ends_of_paths_or_a_pattern(
    targets: str | list[str], expected: list[str]
) -> None:
    assert resolve_targets(PATHS, targets) == expected


def test_a_whole_path_is_a_target_whatever_layers_are_chosen() -> None:
    whole = "model.layers.0.self_attn.o_proj"
    chosen = [path for path in PATHS if path == whole or path.endswith("1.self_attn.q_proj")]
    assert resolve_targets(PATHS, [whole, "q_proj"], layers_to_transform=[1]) == chosen
    assert resolve_targets(PATHS, [whole, "q_proj"], [whole], [1]) == chosen[1:]


def test_an_expression_must_match_the_whole_path() -> None:
    with pytest.raises(AdapterError) as caught:
        resolve_targets(PATHS, "q_proj")
    for words in ("'q_proj'", "model.layers.0.self_attn.q_proj", "gate_proj"):
        assert words in str(caught.value)
    with pytest.raises(AdapterError, match="not a regular expression"):
        resolve_targets(PATHS, "(q_proj")


def test_names_that_match_nothing_are_all_listed_with_the_nearest() -> None:
    with pytest.raises(AdapterError) as caught:
        resolve_targets(PATHS, ["q_proj", "k_prj", "c_attn", "proj", "head"])
    message = str(caught.value)
    assert "'k_prj' (did you mean 'k_proj'?)" in message
    assert "'c_attn'" in message
    assert "'proj'" in message
    assert "'head'" in message
    assert "  - 'q_proj'" not in message
    with pytest.raises(AdapterError, match="It has: down_proj, embed_tokens, gate_proj"):
        resolve_targets(PATHS, [])
