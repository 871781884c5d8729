"""The process of one run; whole comparisons are tested in test_run.py."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from helpers.models.tiny import run_config, write_rows
from veneer.assistant.request import AssistantRequest
from veneer.comparison import worker
from veneer.comparison.order import Order, read_outcome
from veneer.comparison.worker import main
from veneer.evaluation.run import evaluate


def order_of(method: str, model: Path, data: Path, folder: Path) -> Order:
    settings = ["train.steps=2"] if method == "base" else [f"method={method}", "train.steps=2"]
    return Order(method, 0, run_config(model, data, folder, *settings), str(data), max_new_tokens=2)


@pytest.mark.parametrize("method", ["base", "lora"])
def test_the_result_is_what_evaluate_says_of_what_is_on_the_disk(
    method: str, tiny_model: Path, tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    order = order_of(method, tiny_model, tiny_data, tmp_path / "run")
    assert main([str(order.write())]) == 0
    found = read_outcome(order.folder)
    assert found is not None
    adapter = order.folder if method == "lora" else None
    report = evaluate(str(tiny_model), tiny_data, adapter=adapter, compute=order.config.compute, max_new_tokens=2)
    said = {one.name: one.value for one in report.adapter or report.base}
    both = said.keys() & found.metrics.keys()
    assert both >= {"loss", "exact"}
    assert {name: found.metrics[name] for name in both} == pytest.approx({name: said[name] for name in both})
    assert (found.steps, found.trainable > 0) == ((2, True) if method == "lora" else (0, False))
    assert not (order.folder / "checkpoints").exists()
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert all("event" in line for line in lines)
    assert any(line["event"] == "RunStarted" for line in lines) is (method == "lora")


def test_a_run_is_planned_with_its_share_of_the_memory(
    tiny_model: Path, tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    order = order_of("lora", tiny_model, tiny_data, tmp_path / "run").on("auto", 3)
    assert main([str(order.write())]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert any("for one of 3 processes" in line["message"] for line in lines if line["event"] == "Note")


def test_a_run_that_cannot_be_is_told_as_an_event_with_its_exit_code(
    tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    order = order_of("lora", tmp_path / "absent", tiny_data, tmp_path / "lora-0")
    assert main([str(order.write())]) == 2
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (last["event"], last["run"]) == ("RunFailed", "lora-0")
    assert "absent" in last["message"]
    assert read_outcome(order.folder) is None


def test_a_base_that_was_multiplied_in_8_bits_is_scored_as_it_is_used(
    tiny_model: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[AssistantRequest] = []

    def note(request: AssistantRequest, emit: object) -> None:
        asked.append(request)

    monkeypatch.setattr(worker, "load_assistant", note)
    order = order_of("lora", tiny_model, tiny_data, tmp_path / "run")
    config = order.config.changed("compute", {"products": worker.Products.INT8})
    worker._assistant(Order("lora", 0, config, str(tiny_data)))
    assert asked[0].compute.products is worker.Products.EXACT
    assert (asked[0].model, asked[0].adapter) == (str(tiny_model), order.folder)


def test_rows_of_other_names_are_scored_by_the_runs_columns(tiny_model: Path, tmp_path: Path) -> None:
    data = write_rows(tmp_path / "rows.jsonl", [{"text": f"question {n}", "category": "answer"} for n in range(3)])
    columns = "data.columns={prompt: text, completion: category}"
    config = run_config(tiny_model, data, tmp_path / "run", columns)
    order = Order("base", 0, config, str(data), max_new_tokens=2)
    assert main([str(order.write())]) == 0
    found = read_outcome(order.folder)
    assert found is not None
    assert len(found.rows) == 3
