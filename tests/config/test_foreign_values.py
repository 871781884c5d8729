"""Values of other programs lead to veneer's."""

from __future__ import annotations

import re
from typing import Any

import pytest
from transformers.training_args import OptimizerNames

from helpers.training.run_values import refusal, values
from veneer.adapters.targets import resolve_targets
from veneer.config import RunConfig, known_keys
from veneer.config.foreign_values import FOREIGN_VALUES, veneers_value
from veneer.errors import AdapterError

WRONG = [(key, word) for key, words in FOREIGN_VALUES.items() for word in words if key != "lora.target_modules"]
"""Foreign values that no configuration accepts. A target of an adapter may be any text until there is a model."""


def run_with(key: str, value: Any) -> dict[str, Any]:
    section, _, name = key.rpartition(".")
    return values(**({section: {name: value}} if section else {name: value}))


@pytest.mark.parametrize(("key", "word"), WRONG)
def test_the_refusal_of_a_foreign_value_names_veneers(key: str, word: str) -> None:
    given = {"true": True, "false": False}.get(word, word)
    assert refusal(run_with(key, given)).endswith(f"got {given!r}; veneer's is {FOREIGN_VALUES[key][word]}")


@pytest.mark.parametrize("key", FOREIGN_VALUES)
def test_what_is_named_is_a_key_and_a_value_that_it_accepts(key: str) -> None:
    assert key in known_keys()
    for ours in FOREIGN_VALUES[key].values():
        assert RunConfig.model_validate(run_with(key, ours.partition(",")[0]))
        assert set(re.findall(r"\w+\.\w+", ours)) <= set(known_keys())


def test_a_value_that_nobody_knows_has_no_counterpart() -> None:
    assert veneers_value("train.optimizer", "adamw9") is None
    assert veneers_value("data.file", "bf16") is None
    assert "veneer's" not in refusal(run_with("train.optimizer", "adamw9"))


def test_every_adamw_of_transformers_that_veneer_has_is_known() -> None:
    adamw = {one.value for one in OptimizerNames if re.fullmatch(r"(paged_)?adamw(_\w+)?", one.value)}
    without = {"adamw_torch_xla", "adamw_torch_npu_fused", "adamw_torch_4bit"}
    assert adamw - without <= FOREIGN_VALUES["train.optimizer"].keys()


@pytest.mark.parametrize("word", ["all", "linear"])
def test_all_layers_by_another_word_lead_to_all_linear(word: str) -> None:
    with pytest.raises(AdapterError, match=f"target_modules '{word}' matches no layer; veneer's is all-linear"):
        resolve_targets(["model.layers.0.self_attn.q_proj"], word)
