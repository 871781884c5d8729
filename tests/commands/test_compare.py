"""`veneer compare`: quality beside cost, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from helpers.processes.invoking import invoke, refused


@pytest.mark.usefixtures("forked_runs")
def test_compare_shows_quality_beside_cost_and_goes_on_where_it_was(
    tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    asked = ("compare", "--model", tiny_model, "--data", tiny_data, "--output", tmp_path / "out", "--methods", "lora",
             "--seeds", 2, "--held-out", 0.2, "--max-new-tokens", 2, "--set", "train.steps=2", "--set",
             "compute.device=cpu", "--set", "compute.threads=1")  # fmt: skip
    result = invoke(*asked)
    assert result.exit_code == 0, result.output
    assert [line for line in result.stderr.splitlines() if "done" in line] == [
        "base: done", "lora-0: done", "lora-1: done",
    ]  # fmt: skip
    text = " ".join((tmp_path / "out" / "compare.txt").read_text().split())
    assert "16 rows trained, 4 others scored" in text
    assert "means over 2 seeds" in text
    assert "lora" in result.stdout
    assert "…" not in result.stdout  # 80 columns are enough
    again = invoke(*asked, "--json")
    assert "lora-1: was already complete" in again.stderr
    assert json.loads(again.stdout) == json.loads((tmp_path / "out" / "compare.json").read_text())


def test_compare_refuses_what_it_does_not_understand(tiny_model: Path, tiny_data: Path, tmp_path: Path) -> None:
    asked = ("compare", "--model", tiny_model, "--data", tiny_data, "--output", tmp_path / "out")
    assert "give one or more of lora, qlora, full" in refused(*asked, "--methods", "lora,dora")
    assert "methods: 'lora' is given 2 times" in refused(*asked, "--methods", "lora,qlora,lora")
    assert "metrics: 'exact' is given 2 times" in refused(*asked, "--metric", "exact", "--metric", "exact")
    assert "not both" in refused(*asked, "--eval-data", tiny_data, "--held-out", 0.1)
    assert "train.seed" in refused(*asked, "--set", "train.seed=3")


@pytest.mark.usefixtures("forked_runs")
def test_a_run_that_failed_shows_in_the_exit_code(tiny_model: Path, tiny_data: Path, tmp_path: Path) -> None:
    result = invoke(
        "compare", "--model", tiny_model, "--data", tiny_data, "--output", tmp_path / "out", "--methods", "lora",
        "--seeds", 1, "--max-new-tokens", 2, "--set", "train.steps=1", "--set", "compute.memory_limit_mb=1",
    )  # fmt: skip
    assert result.exit_code == 1
    assert "lora-0: not run: " in result.stderr
    assert "base" in result.stdout
