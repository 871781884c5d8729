from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import veneer
from veneer.config import RunConfig
from veneer.errors import ConfigError
from veneer.given_rows import settings
from veneer.planning.plan import Plan


def test_rows_of_a_run_that_never_began_may_be_mended_for_its_folder(tiny_model: Path, tmp_path: Path) -> None:
    good = [{"prompt": str(number), "completion": "y"} for number in range(4)]
    settings = {"model": str(tiny_model), "output": str(tmp_path / "run"), "train": {"steps": 1},
                "compute": {"device": "cpu"}}  # fmt: skip
    with pytest.raises(veneer.DataError, match="there is a prompt but no completion"):
        veneer.train(settings, data=[*good, {"prompt": "x"}], eval_data=good[:1])
    with pytest.raises(veneer.ModelError, match="none"):
        veneer.train({**settings, "model": str(tmp_path / "none")}, data=good[:3])
    assert not list((tmp_path / "run").glob("*data.jsonl"))
    run = veneer.train(settings, data=good)
    with pytest.raises(veneer.OutputError, match="already holds a run"):
        veneer.train(settings, data=good)
    assert (run.output / "data.jsonl").read_text().count("\n") == 4


def test_settings_are_a_configuration_or_its_mapping(tmp_path: Path) -> None:
    plain: dict[str, Any] = {"model": "m", "output": "o", "data": {"file": "d"}, "train": {"steps": 3}}
    made = settings(plain)
    assert isinstance(made, RunConfig)
    assert settings(made) is made
    assert made == RunConfig.model_validate(plain)


@pytest.mark.parametrize("section", ["rows.jsonl", ["rows.jsonl"], 5])
def test_a_section_of_data_that_is_none_is_refused_beside_rows_too(section: Any, tmp_path: Path) -> None:
    values = {"model": "m", "output": str(tmp_path / "out"), "data": section}
    for given in ({}, {"eval_data": "eval.jsonl"}, {"data": [{"prompt": "a", "completion": "b"}]}):
        with pytest.raises(ConfigError, match="data: is a section, and must be a mapping of its keys"):
            veneer.train(values, **given)
    assert list(tmp_path.iterdir()) == []


def without_runtime(plan: Plan) -> Plan:
    """The plan without what this process held when it was made, which two plans need not share."""
    memory = replace(plan.choice.memory, runtime=0)
    return replace(plan, choice=replace(plan.choice, memory=memory))


def test_a_plan_over_supposed_rows_needs_neither_a_file_nor_a_folder(tiny_model: Path) -> None:
    named = {"model": str(tiny_model), "method": "lora", "compute": {"memory_limit_mb": 2000}}
    rows = veneer.SupposedRows(rows=100, tokens=20, longest=64)
    files = {"output": "o", "data": {"file": "nothing.jsonl", "max_length": 64}}
    bare, full = (veneer.plan(values, rows=rows) for values in (named | {"data": {"max_length": 64}}, named | files))
    assert isinstance(bare, Plan)
    assert isinstance(full, Plan)
    assert without_runtime(bare) == without_runtime(full)
    with pytest.raises(ConfigError, match="data: "):
        veneer.plan(named, rows=None)
    with pytest.raises(ConfigError, match="max_lenght"):
        veneer.plan(named | {"data": {"max_lenght": 64}}, rows=rows)
