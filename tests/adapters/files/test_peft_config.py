"""PEFT's configuration is read where veneer is true to it, and refused by name where it is not."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import peft
import pytest

from helpers.adapters.peft_folders import their_adapter, write_adapter
from veneer.adapters.files import peft_config
from veneer.adapters.files.store import read_spec
from veneer.adapters.load import load_adapter
from veneer.errors import AdapterError
from veneer.model.decoder import CausalLM


def change_config(folder: Path, changes: dict[str, Any]) -> None:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize("init", [False, "gaussian", "orthogonal", "eva"])
def test_starts_that_leave_the_base_alone_are_read(init: bool | str, model: CausalLM, folder: Path) -> None:
    write_adapter(folder, model)
    change_config(folder, {"init_lora_weights": init})
    assert read_spec(folder).rank == 4


USED: dict[str, Any] = {
    "alora_invocation_tokens": [1, 2],
    "arrow_config": {"arrow_top_k": 3},
    "init_lora_weights": "pissa_niter_4",
    "kasa_config": {},
    "layer_replication": [[0, 2], [1, 2]],
    "monteclora_config": {"n": 1},
    "use_bdlora": {"nblocks": 2},
    "use_qalora": True,
    "velora_config": {"num_groups": 2},
    "use_something_new": True,
}


@pytest.mark.parametrize("key", USED)
def test_each_feature_that_is_not_supported_is_refused_by_name(key: str, model: CausalLM, folder: Path) -> None:
    write_adapter(folder, model)
    change_config(folder, {key: USED[key]})
    with pytest.raises(AdapterError, match=rf"- {key}: (.|\n)*merge it into its base with PEFT"):
        load_adapter(model, folder)


@pytest.mark.parametrize("kind", ["LOHA", "PROMPT_TUNING", None])
def test_another_kind_of_adapter_is_refused_with_a_remedy(kind: str | None, model: CausalLM, folder: Path) -> None:
    write_adapter(folder, model)
    change_config(folder, {"peft_type": kind})
    with pytest.raises(AdapterError, match=rf"peft_type is {kind!r}, .*merge it into its base with PEFT"):
        load_adapter(model, folder)


@pytest.mark.parametrize("init", ["pissa_niter_4", "corda", "loftq", "lora_ga", "unheard_of"])
def test_starts_that_change_the_base_are_refused(init: str, model: CausalLM, folder: Path) -> None:
    write_adapter(folder, model)
    change_config(folder, {"init_lora_weights": init})
    with pytest.raises(AdapterError, match=f"init_lora_weights: '{init}'"):
        load_adapter(model, folder)


def test_several_features_are_all_named(model: CausalLM, folder: Path) -> None:
    write_adapter(folder, model)
    change_config(folder, {"use_qalora": True, "layer_replication": [[0, 2]], "init_lora_weights": "loftq"})
    with pytest.raises(AdapterError) as caught:
        load_adapter(model, folder)
    assert str(caught.value).count("  - ") == 3


def test_every_setting_of_peft_is_accounted_for() -> None:
    """A new version of PEFT that brings another switch fails here, before it is left out silently."""
    fields = {field.name for field in dataclasses.fields(peft.LoraConfig)}
    known = set(peft_config._NEUTRAL) | peft_config._READ
    assert fields - known == set()


def test_settings_of_peft_that_are_off_are_accepted(model: CausalLM, folder: Path) -> None:
    theirs = their_adapter(target_modules=["q_proj"])
    theirs.save_pretrained(folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    assert len(config) > 25
    change_config(folder, {"some_later_switch": False, "another": None, "a_table": {}, "a_list": []})
    load_adapter(model, folder)


@pytest.mark.scenario(number=32)
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"r": 0, "lora_alpha": "16"}, ["r: 0", "lora_alpha: '16'"]),
        ({"r": 4.5, "target_modules": None}, ["r: 4.5", "target_modules: None"]),
        ({"r": True, "lora_alpha": True}, ["r: True", "lora_alpha: True"]),
        ({"lora_alpha": float("nan")}, ["lora_alpha: nan"]),
        ({"lora_alpha": float("inf")}, ["lora_alpha: inf"]),
        ({"lora_alpha": 10**400}, ["lora_alpha: 1000000"]),
        ({"lora_dropout": 1.0, "target_modules": [1]}, ["lora_dropout: 1.0", "target_modules: [1]"]),
        ({"exclude_modules": 3, "modules_to_save": [1]}, ["exclude_modules: 3", "modules_to_save: [1]"]),
        ({"layers_to_transform": "1", "rank_pattern": 5}, ["layers_to_transform: '1'", "rank_pattern: 5"]),
        ({"peft_type": "IA3"}, ["'IA3'"]),
        ({"peft_type": None}, ["None"]),
    ],
)
def test_unusable_values_are_all_named(
    changes: dict[str, Any], words: list[str], model: CausalLM, folder: Path
) -> None:
    write_adapter(folder, model)
    change_config(folder, changes)
    with pytest.raises(AdapterError) as caught:
        read_spec(folder)
    assert [word for word in words if word not in str(caught.value)] == []


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "\x00\xff", '"LORA"', "null", "[" * 100_000, '{"r": ' + "9" * 5000 + "}"]
)
def test_a_broken_configuration_is_refused(text: str, model: CausalLM, folder: Path) -> None:
    write_adapter(folder, model)
    (folder / "adapter_config.json").write_text(text, encoding="latin-1")
    with pytest.raises(AdapterError, match=r"adapter_config\.json"):
        read_spec(folder)


def test_whatever_peft_writes_is_known_and_what_nobody_writes_is_said() -> None:
    plain = peft.LoraConfig(r=4, target_modules=["q_proj"]).to_dict()
    assert peft_config.unknown_settings(plain) == []
    said = peft_config.unknown_settings({**plain, "useOrslora": False, "zzz": []})
    assert said == ["useOrslora: False (did you mean 'use_rslora'?)", "zzz: []"]
