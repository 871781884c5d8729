from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from helpers.models.tiny import run_config
from veneer.backends.base import CAPABILITIES, Description
from veneer.backends.choose import LIMITS, backend_of, refuse_hf, refuse_settings, said
from veneer.backends.describe import describe_model
from veneer.enums import Backend
from veneer.errors import ConfigError
from veneer.io.checkpoint import read_model_config
from veneer.model.families.choose import FAMILIES


@pytest.mark.parametrize("model_type", [*FAMILIES, "gpt2", "nonesuch", None])
def test_auto_takes_the_own_decoder_where_it_knows_the_architecture(model_type: str | None) -> None:
    config = {"model_type": model_type}
    assert backend_of(config, Backend.AUTO) is (Backend.VENEER if model_type in FAMILIES else Backend.HF)
    for wanted in (Backend.VENEER, Backend.HF):
        assert backend_of(config, wanted) is wanted


def test_it_is_said_why_transformers_computes_and_what_it_cannot() -> None:
    assert said({"model_type": "gpt2"}, Backend.AUTO) == (
        "model_type 'gpt2' is computed by transformers (veneer's own decoder does not know it, so backend hf): "
        + LIMITS
    )
    assert "(backend hf, as requested)" in said({"model_type": "llama"}, Backend.HF)


def test_what_the_own_decoder_alone_does_is_refused_for_other_architectures() -> None:
    refuse_hf("quantising", {"model_type": "llama"})
    with pytest.raises(ConfigError) as caught:
        refuse_hf("quantising", {"model_type": "gpt2"})
    assert str(caught.value).startswith("quantising works only with veneer's own decoder")
    assert [name for name in FAMILIES if name not in str(caught.value)] == []


def test_settings_beyond_what_a_model_can_are_refused_all_at_once(tiny_model: Path, tmp_path: Path) -> None:
    able = describe_model(read_model_config(tiny_model), Backend.AUTO)
    unable: Description = replace(able, capabilities=replace(CAPABILITIES[Backend.HF], recomputation=False))
    beyond = (
        "lora.new_tokens=[<a>]", "compute.products=int8", "compute.recompute=layers",
    )  # fmt: skip
    config = run_config(tiny_model, Path("-"), tmp_path / "run", *beyond)
    refuse_settings(config, able)
    with pytest.raises(ConfigError) as caught:
        refuse_settings(config, unable)
    for key in ("lora.new_tokens", "compute.products int8", "compute.recompute layers"):
        assert key in str(caught.value)
    with pytest.raises(ConfigError, match="method full: use lora or qlora"):
        refuse_settings(run_config(tiny_model, Path("-"), tmp_path / "run", "method=full"), unable)
