from __future__ import annotations

from typing import Any

import gguf
import pytest
import transformers as hf

from helpers.gguf.models import CASES
from veneer.io.gguf.config import completed
from veneer.io.gguf.families import ARCHITECTURES, BY_MODEL_TYPE, FAMILIES, Family, layer_types
from veneer.model.families.choose import FAMILIES as DECODERS

every_family = pytest.mark.parametrize("family", FAMILIES.values(), ids=lambda family: family.model_types[0])


@every_family
def test_both_names_of_a_family_are_those_of_its_programs(family: Family) -> None:
    assert family.architecture in gguf.MODEL_ARCH_NAMES.values()
    assert getattr(hf, family.class_name).config_class.model_type == family.model_types[0]
    assert set(family.model_types) <= set(DECODERS), "the own decoder reads it back"


def test_every_architecture_that_the_own_decoder_knows_is_written() -> None:
    assert set(BY_MODEL_TYPE) == set(DECODERS)
    assert sorted({family.architecture for family in FAMILIES.values()}) == ARCHITECTURES
    assert {family.model_types[0] for family in FAMILIES.values()} | {"mistral"} == set(DECODERS)


@every_family
def test_defaults_are_those_of_transformers(family: Family) -> None:
    """What config.json does not say has the value that transformers' own configuration has."""
    theirs = getattr(hf, family.class_name).config_class().to_dict()
    rope: dict[str, Any] = theirs.get("rope_parameters") or {}
    flat = {**rope.get("full_attention", rope), **theirs}
    flat["rope_local_base_freq"] = rope.get("sliding_attention", {}).get("rope_theta")
    for key, value in family.defaults.items():
        found = flat.get(key, flat.get({"num_experts": "num_local_experts"}.get(key, key)))
        assert found == value, key


@every_family
def test_settings_are_keys_that_llama_cpp_reads(family: Family) -> None:
    keys = {
        value
        for group in (gguf.Keys.LLM, gguf.Keys.Attention)
        for name, value in vars(group).items()
        if name.isupper() and isinstance(value, str)
    }
    for setting in family.settings:
        assert f"{{arch}}.{setting.ours}" in keys, setting.ours


@pytest.mark.parametrize("case", CASES)
def test_what_llama_cpp_takes_for_granted_holds_for_the_models_that_are_written(case: str) -> None:
    config = completed(CASES[case]().to_dict())
    family = BY_MODEL_TYPE[config["model_type"]]
    for key, value in family.granted(config).items():
        assert config.get(key, value) == value, key


@pytest.mark.parametrize(("layers", "period"), [(1, 2), (6, 2), (13, 6), (7, 1)])
def test_every_so_many_layers_one_sees_everything(layers: int, period: int) -> None:
    found = layer_types(layers, period)
    assert [index + 1 for index, kind in enumerate(found) if kind == "full_attention"] == list(
        range(period, layers + 1, period)
    )
    assert len(found) == layers
