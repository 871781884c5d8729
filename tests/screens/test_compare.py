from __future__ import annotations

from dataclasses import replace

from helpers.processes.consoles import cells, recorded
from veneer.comparison.request import CompareRequest
from veneer.comparison.result import CompareResult
from veneer.comparison.summary import Difference, Figure, MethodSummary, figure
from veneer.evaluation.statistics.compare import Comparison
from veneer.screens.compare import comparison_of_methods, differences_table, measures_table

BASE = MethodSummary("base", [0], 0, 0, 0.0, 0, Figure(0.0), Figure(0.0), {"loss": Figure(3.0), "exact": Figure(0.0)})
LORA = MethodSummary(
    "lora", [0, 1, 2], 1_230_000, 4_900_000, 1e-4, 10, Figure(812.0), Figure(75.0, 70.0, 80.0),
    {"loss": Figure(1.5, 1.4, 1.6), "exact": Figure(0.85, 0.8, 0.9)},
)  # fmt: skip
FEWER = MethodSummary("full", [0], 9_000_000, 36_000_000, 1e-5, 10, Figure(900.0), Figure(99.0), {"loss": Figure(1.25)})
RESULT = CompareResult(
    CompareRequest(model="m", data="rows.jsonl", output="out", seeds=3), 90, 10, [], {}, [BASE, LORA, FEWER], []
)


def test_every_method_has_its_costs_and_measures_and_the_base_has_no_cost() -> None:
    console = recorded()
    console.print(comparison_of_methods(RESULT))
    text = console.export_text()
    found = cells(text)
    assert found["base"][:4] == [""] * 4
    assert found["lora"][:4] == ["1.23", "4.9", "812", "75"]
    assert found["lora"][4:] == ["1.500±0.100", "85.0±5.0"]
    assert found["full (1)"][4:] == ["1.250", ""], "one seed of three is said, and a measure that is missing is empty"
    assert "90 rows trained, 10 others scored" in text
    assert "means over 3 seeds" in text


def test_a_share_near_an_end_of_its_scale_is_not_shown_as_more_certain_than_it_is() -> None:
    near = replace(LORA, metrics={"exact": figure([1.0, 1.0, 0.94], share=True)})
    console = recorded()
    console.print(comparison_of_methods(replace(RESULT, methods=[near])))
    assert cells(console.export_text())["lora"][4:] == ["98.0±8.6"]


def test_measures_of_the_task_stand_in_a_table_of_their_own() -> None:
    task = replace(LORA, metrics={**LORA.metrics, "json_f1": Figure(0.5, 0.4, 0.6), "bleu": Figure(12.0)})
    console = recorded()
    console.print(measures_table(replace(RESULT, methods=[BASE, task], primary="json_f1")))
    text = console.export_text()
    assert cells(text) == {"json_f1, %": ["", "50.0±10.0"], "bleu": ["", "12.000"]}
    assert "primary measure: json_f1" in text


def test_differences_have_their_intervals() -> None:
    loss = Comparison("loss", 1.25, 1.5, 0.25, 0.125, 0.375)
    console = recorded()
    console.print(differences_table([Difference("lora", "full", loss)]))
    text = console.export_text()
    assert "against full" in text
    assert cells(text)["lora"] == ["loss", "+0.250", "+0.125 to +0.375", ""]
    console.print(differences_table([Difference("lora", "full", replace(loss, p=0.0))]))
    assert cells(console.export_text())["lora"][-1] == "< 1e-12"
