"""Numbers that no model has are refused before anything is made from them, all at once and by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from veneer.bounds import LIMITS, check_numbers
from veneer.cli import main
from veneer.errors import ModelError
from veneer.model.families.choose import spec_from_hf
from veneer.model.hf_skeleton import make_skeleton

LLAMA: dict[str, Any] = {
    "model_type": "llama", "vocab_size": 100, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "rms_norm_eps": 1e-5, "max_position_embeddings": 64,
}  # fmt: skip
LARGEST_KNOWN = {
    "num_hidden_layers": 126, "hidden_size": 18432, "intermediate_size": 73728, "vocab_size": 262_208,
    "num_attention_heads": 128, "head_dim": 512, "num_experts": 512, "max_position_embeddings": 10_485_760,
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"num_hidden_layers": 10**6}, "num_hidden_layers: 1,000,000, at most 2,048"),
        ({"head_dim": 2**31}, "head_dim: 2,147,483,648"),
        ({"head_dim": 10**30}, r"head_dim: about 1e\+30"),
        ({"vocab_size": 10**400}, "vocab_size: beyond all"),
        ({"hidden_size": float("inf")}, "hidden_size: beyond all"),
        ({"hidden_size": float("nan")}, "hidden_size"),
        ({"n_layer": -(10**9)}, "n_layer"),
        ({"model_type": []}, r"model_type: \[\], must be a text"),
        ({"hidden_act": [2]}, r"hidden_act: \[2\], must be a text"),
        ({"eos_token_id": ["</s>"]}, r"eos_token_id: \['</s>'\], must be a whole number, or a list of them"),
        ({"bos_token_id": True}, "bos_token_id: True, must be a whole number"),
        ({"pad_token_id": {}}, "pad_token_id: {}, must be"),
        ({"text_config": {"num_hidden_layers": 10**6}}, r"text_config\.num_hidden_layers"),
        ({"num_hidden_layers": 2000, "num_experts": 8000}, "2000 layers of 8000 experts are 16,000,000"),
    ],
)
def test_what_no_model_has_is_refused(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ModelError, match=named):
        check_numbers(LLAMA | changes)


def test_all_offenders_are_named_at_once() -> None:
    with pytest.raises(ModelError) as caught:
        check_numbers(LLAMA | dict.fromkeys(LIMITS, 10**40))
    assert all(key in str(caught.value) for key in ("num_hidden_layers", "head_dim", "vocab_size"))


def test_the_largest_known_models_are_within_the_bounds() -> None:
    check_numbers(LLAMA | LARGEST_KNOWN)
    assert all(4 * value <= LIMITS[key] for key, value in LARGEST_KNOWN.items())


@pytest.mark.parametrize("changes", [{"num_hidden_layers": 10**6}, {"head_dim": 2**31}, {"vocab_size": 10**30}])
def test_both_backends_refuse_them_before_a_model_is_made(changes: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match="no model has"):
        spec_from_hf(LLAMA | changes)
    with pytest.raises(ModelError, match="no model has"):
        make_skeleton(LLAMA | changes | {"model_type": "gpt2"}, torch.float32)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"num_hidden_layers": 10**6}, "num_hidden_layers"),
        ({"head_dim": 10**30}, "head_dim"),
        ({"model_type": []}, "model_type"),
        ({"hidden_act": [2]}, "hidden_act"),
    ],
)
def test_the_plan_refuses_them(changes: dict[str, Any], named: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA | changes), encoding="utf-8")
    result = CliRunner().invoke(main, ["plan", "--model", str(tmp_path), "--tokens", "40"])
    assert result.exit_code == 2, result.output
    assert named in result.stderr
    assert "Traceback" not in result.stderr
