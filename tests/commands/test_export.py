"""`veneer export`: what was measured, and where the model is."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
from peft import PeftModel
from transformers import LlamaForCausalLM

from helpers.models.tiny import write_model
from helpers.processes.invoking import invoke, refused
from veneer.adapters.files.origin import read_base


def test_export_shows_what_was_measured_and_where_the_model_is(
    adapter: Path, tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    asked = ("--model", tiny_model, "--adapter", adapter, "--data", tiny_data, "--limit", 4, "--device", "cpu")
    result = invoke("export", *asked, "--method", "qlora", "--output", tmp_path / "a", "--dtype", "float16")
    assert result.exit_code == 0, result.output
    for text in ("(4 rows)", "merged: original base", "merged: dequantised base", "(kept)", "survives"):
        assert text in result.stdout
    assert f"model: {tmp_path / 'a'} (float16, 14 of 20 tensors changed" in result.stdout
    result = invoke("export", *asked, "--output", tmp_path / "b", "--json")
    record = json.loads(result.stdout)
    parity = record.pop("parity")
    assert record == json.loads((tmp_path / "b" / "export.json").read_text())
    assert parity == json.loads((tmp_path / "b" / "parity.json").read_text())
    assert record["measured"]["merged"].keys() == {"original"}
    result = invoke("export", *asked[:4], "--method", "qlora", "--output", tmp_path / "c")
    assert "because the adapter was trained with it" in result.stdout
    assert "exists already" in refused("export", *asked, "--output", tmp_path / "a")
    for heading in ("top-10 gap", "transformers", "passed: 20 tensors read back"):
        assert heading in result.stdout


@pytest.mark.scenario(number=32)
def test_a_merge_into_another_base_is_made_only_if_that_is_asked_for(adapter: Path, tmp_path: Path) -> None:
    other = write_model(tmp_path / "other", seed=5)
    argv = ["export", "--adapter", adapter, "--model", other, "--output", tmp_path / "merged", "--device", "cpu"]
    message = refused(*argv)
    for part in ("another base model", "model.safetensors: has other content", "--allow-other-base"):
        assert part in message
    assert not (tmp_path / "merged").exists()
    done = invoke(*argv, "--allow-other-base")
    assert done.exit_code == 0, done.output
    assert "another base model" in done.stderr


def test_an_export_for_peft_names_the_base_and_is_loaded_by_peft(
    adapter: Path, tiny_model: Path, tmp_path: Path
) -> None:
    done = invoke("export", "--adapter", adapter, "--to", "peft", "--output", tmp_path / "peft", "--device", "cpu")
    assert done.exit_code == 0, done.output
    assert read_base(tmp_path / "peft") == read_base(adapter) != {}
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for folder in (adapter, tmp_path / "peft"):
            PeftModel.from_pretrained(LlamaForCausalLM.from_pretrained(tiny_model), folder)
    assert [str(one.message) for one in said if "peft" in one.filename] == []
