"""`veneer export`: what was measured, and where the model is."""

from __future__ import annotations

import json
from pathlib import Path

from invoking import invoke, refused


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
    assert "since the adapter was trained beside it" in result.stdout
    assert "exists already" in refused("export", *asked, "--output", tmp_path / "a")
    for heading in ("top-10 gap", "transformers", "passed: 20 tensors read back"):
        assert heading in result.stdout
