"""`veneer evaluate`: a table or JSON, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

from invoking import FLOAT32, invoke, refused
from tiny import rows, write_rows


def test_evaluate_prints_a_table_or_json(adapter: Path, tiny_model: Path, tiny_data: Path) -> None:
    argv = ["evaluate", "--model", tiny_model, "--adapter", adapter, "--data", tiny_data, "--limit", 4, *FLOAT32]
    table = invoke(*argv)
    assert table.exit_code == 0, table.output
    for word in ("exact", "loss", "perplexity", "difference", "Samples"):
        assert word in table.stdout
    result = invoke(*argv, "--json")
    assert result.exit_code == 0
    report = json.loads(result.stdout)
    assert report["rows"] == 4
    names = [one["name"] for one in report["comparison"]]
    assert names[:5] == ["exact", "fields", "loss", "perplexity", "bits_per_byte"]
    alone = json.loads(invoke(*[a for a in argv if a not in ("--adapter", adapter)], "--json").stdout)
    assert alone["base"] == report["base"]
    assert alone["comparison"] == []


def test_evaluate_refuses_by_name(adapter: Path, tiny_model: Path, tiny_data: Path, tmp_path: Path) -> None:
    argv = ["evaluate", "--model", tiny_model]
    assert "does not exist" in refused(*argv, "--data", "/no/such.jsonl")
    assert "ends in '.txt'" in refused(*argv, "--data", write_rows(tmp_path / "rows.txt", rows(1)))
    assert "no adapter_config.json" in refused(*argv, "--data", tiny_data, "--adapter", tmp_path)
