from __future__ import annotations

import json
from pathlib import Path

import pytest

import veneer
from veneer.enums import ObjectiveName
from veneer.errors import ConfigError


def test_rows_are_checked_wherever_they_are(tiny_data: Path, tiny_model: Path) -> None:
    content = [json.loads(line) for line in tiny_data.read_text().splitlines()]
    by_file = veneer.lint(tiny_data, model=str(tiny_model)).to_json()
    in_memory = veneer.lint([*content], model=str(tiny_model)).to_json()
    for key in ("rows", "rows_with", "lengths", "not_checked"):
        assert by_file[key] == in_memory[key]
    leaked = veneer.lint(content, eval_data=content[:2]).to_json()
    assert leaked["files"] == ["the given rows", "the given evaluation rows"]
    (found,) = (one for one in leaked["findings"] if one["rule"] == "leaked-row")
    assert found["rows"][1] == {
        "where": "the given evaluation rows:2", "detail": "is the training row the given rows:2"
    }  # fmt: skip


def test_rows_are_checked_for_an_objective_by_its_name_or_as_it_is() -> None:
    asked = [{"prompt": "2 + 2?", "reference": "4"}]
    for objective in ("grpo", ObjectiveName.GRPO):
        report = veneer.lint(asked, objective=objective)
        assert (report.objective, report.found) == (ObjectiveName.GRPO, ())
    assert veneer.lint(asked, objective="sft").failed
    with pytest.raises(ConfigError, match=r"objective: 'gpro' is unknown.*did you mean 'grpo'"):
        veneer.lint(asked, objective="gpro")
    with pytest.raises(ConfigError, match="label_errors judges answers"):
        veneer.lint(asked, objective="grpo", model="none", label_errors=True)
