"""Which adapters vLLM takes: each rule on an adapter of its own, and PEFT's plain ones are none of them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from helpers.adapters.peft_folders import their_adapter
from veneer.adapters.files.vllm import ServerFinding, ServerVerdict, check_folder, check_for_vllm, max_rank
from veneer.errors import AdapterError
from veneer.text import expressions


def made(folder: Path, **settings: Any) -> Path:
    """An adapter that PEFT has written, with changed settings."""
    their_adapter(target_modules=["q_proj", "down_proj"]).save_pretrained(folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, **settings}))
    return folder


@pytest.mark.parametrize(
    ("settings", "verdict", "reason"),
    [
        ({}, ServerVerdict.SERVED, ""),
        ({"use_rslora": True}, ServerVerdict.SERVED, ""),
        ({"modules_to_save": ["score"]}, ServerVerdict.SERVED, ""),
        ({"peft_type": "IA3"}, ServerVerdict.REFUSED, "only LORA"),
        ({"use_dora": True}, ServerVerdict.REFUSED, "DoRA is not served"),
        ({"modules_to_save": ["lm_head"]}, ServerVerdict.REFUSED, "modules_to_save: lm_head"),
        ({"bias": "all"}, ServerVerdict.REFUSED, "trained biases"),
        ({"trainable_token_indices": [3]}, ServerVerdict.REFUSED, "trained tokens"),
        ({"r": 1024}, ServerVerdict.REFUSED, "rank 1024 is above 512"),
        ({"target_parameters": ["mlp.experts.down_proj"]}, ServerVerdict.DEPENDS, "some mixtures"),
        ({"rank_pattern": {"q_proj": 8}}, ServerVerdict.WRONG, "q_proj is scaled by 1.5 instead of 0.75"),
        ({"alpha_pattern": {"q_proj": 12}}, ServerVerdict.WRONG, "alpha_pattern: not read.* 1.5 instead of 3"),
        # Another rank with the same scale is served as it was trained.
        ({"rank_pattern": {"q_proj": 8}, "alpha_pattern": {"q_proj": 12}}, ServerVerdict.SERVED, ""),
    ],
)
def test_each_rule_says_what_becomes_of_the_adapter(
    tmp_path: Path, settings: dict[str, Any], verdict: ServerVerdict, reason: str
) -> None:
    found = check_for_vllm(made(tmp_path / "one", **settings))
    assert found.verdict is verdict
    assert re.search(reason, " ".join(found.reasons))
    assert bool(found.reasons) == bool(reason)


@pytest.mark.parametrize(
    "settings",
    [
        {"r": "8"}, {"r": None}, {"r": 0}, {"r": True}, {"lora_alpha": None}, {"modules_to_save": 5},
        {"modules_to_save": "score"}, {"modules_to_save": [5]}, {"rank_pattern": [1]}, {"rank_pattern": {"q": 0}},
        {"alpha_pattern": {"q": "x"}}, {"rank_pattern": {"(": 4}}, {"alpha_pattern": 7},
        {"peft_type": "LOHA", "rank_pattern": [1]},
    ],
)  # fmt: skip
def test_a_configuration_that_cannot_be_read_is_refused_with_the_reason(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    found = check_for_vllm(made(tmp_path / "one", **settings))
    assert (found.verdict, found.rank) == (ServerVerdict.REFUSED, 0)
    assert "its files cannot be read" not in found.reasons[0]
    assert "adapter_config.json: " in found.reasons[0]


def test_a_pattern_that_takes_forever_to_match_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expressions, "SECONDS", 1)
    found = check_for_vllm(made(tmp_path / "one", rank_pattern={"(a+)+b": 16, "a" * 60: 8}))
    assert found.verdict is ServerVerdict.REFUSED
    assert "'(a+)+b': takes more than" in found.reasons[0]


def test_tensors_beyond_linear_layers_are_found_in_the_file(tmp_path: Path) -> None:
    their_adapter(target_modules=["q_proj", "lm_head"]).save_pretrained(tmp_path / "head", save_embedding_layers=False)
    assert check_for_vllm(tmp_path / "head").verdict is ServerVerdict.DEPENDS
    weights = made(tmp_path / "bias") / "adapter_model.safetensors"
    tensors = load_file(weights)
    name = next(name for name in tensors if name.endswith("lora_B.weight"))
    save_file({**tensors, name.replace(".weight", ".bias"): torch.zeros(64)}, weights)
    found = check_for_vllm(tmp_path / "bias")
    assert found.verdict is ServerVerdict.REFUSED
    assert "biases of B" in found.reasons[0]


def test_a_folder_is_checked_by_name_and_damaged_ones_are_refused(tmp_path: Path) -> None:
    made(tmp_path / "b", r=4)
    made(tmp_path / "a", r=12)
    made(tmp_path / "c")
    (tmp_path / "c" / "adapter_model.safetensors").write_bytes(b"x")
    findings = check_folder(tmp_path)
    assert [one.name for one in findings] == ["a", "b", "c"]
    assert findings[2].verdict is ServerVerdict.REFUSED
    assert max_rank(findings) == 16
    assert [one.name for one in check_folder(tmp_path / "b")] == ["b"]
    assert max_rank([ServerFinding("x", ServerVerdict.SERVED, (), 600)]) is None
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "empty", tmp_path / "no"):
        with pytest.raises(AdapterError, match=str(folder)):
            check_folder(folder)
