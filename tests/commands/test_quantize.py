from __future__ import annotations

import json
from pathlib import Path

import pytest

from helpers.processes.invoking import invoke, refused
from veneer.enums import Scheme
from veneer.io.checkpoint import open_checkpoint


def test_settings_of_quant_reach_the_files(tiny_model: Path, tmp_path: Path) -> None:
    path = tmp_path / "q"
    result = invoke(
        "quantize", "--model", tiny_model, "--output", path, "--set", "quant.scheme=int8",
        "--set", "quant.skip_modules=[up_proj]", "--dtype", "float16", "--json",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["quant"]["scheme"] == "int8"
    checkpoint = open_checkpoint(path)
    assert {stored.scheme for stored in checkpoint.stored.values()} == {Scheme.INT8}
    assert not any("up_proj" in name for name in checkpoint.stored)
    assert checkpoint.config["torch_dtype"] == "float16"


@pytest.mark.parametrize(
    ("setting", "named"),
    [("lora.rank=4", "not lora"), ("quant.schem=fp4", "quant.scheme"), ("quant.scheme=nf5", "nf5")],
)
def test_other_settings_are_refused_and_nothing_is_made(
    setting: str, named: str, tiny_model: Path, tmp_path: Path
) -> None:
    assert named in refused("quantize", "--model", tiny_model, "--output", tmp_path / "q", "--set", setting)
    assert not (tmp_path / "q").exists()
