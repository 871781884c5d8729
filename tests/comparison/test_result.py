from __future__ import annotations

import json

from veneer.comparison.order import RunOutcome
from veneer.comparison.request import CompareRequest
from veneer.comparison.result import CompareResult
from veneer.comparison.summary import Figure, MethodSummary
from veneer.enums import Method, ObjectiveName

CONFIG = CompareRequest(
    model="m", data="rows.jsonl", output="out", more={Method.LORA: ("lora.rank=2",)}, preference=ObjectiveName.DPO
)
BASE = MethodSummary("base", [0], 0, 0, 0.0, 0, Figure(0.0), Figure(0.0), {"loss": Figure(3.0)})


def test_a_result_is_plain_values_without_single_rows() -> None:
    values = CompareResult(CONFIG, 9, 1, [RunOutcome("base", 0, {"loss": 3.0}, [])], {}, [BASE], []).to_json()
    assert json.loads(json.dumps(values))["config"]["methods"] == ["full", "lora", "qlora"]
    assert values["config"]["more"] == {"lora": ("lora.rank=2",)}
    assert values["config"]["preference"] == "dpo"
    assert [(one["method"], "rows" in one) for one in values["outcomes"]] == [("base", False)]


def test_a_notebook_shows_the_methods_and_what_failed() -> None:
    shown = CompareResult(CONFIG, 9, 1, [], {"lora-0": "no room"}, [BASE], [])._repr_html_()
    assert "m: 9 training rows, 1 evaluation row" in shown
    assert "not run" in shown
    assert "no room" in shown
    assert "not run" not in CompareResult(CONFIG, 9, 1, [], {}, [BASE], [])._repr_html_()
