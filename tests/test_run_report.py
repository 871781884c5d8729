from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from helpers.models.tiny import run_config
from veneer import run_report
from veneer.config import ComputeSection
from veneer.enums import Dtype
from veneer.evaluation.run import evaluate
from veneer.events import Event, Level, Note, RunFinished, StageBegun, StepDone, broadcast
from veneer.run_report import report_run
from veneer.tracked_run import train_tracked

FLOAT32 = ComputeSection(device="cpu", dtype=Dtype.FLOAT32, threads=1)


def values(page: Path) -> dict[str, Any]:
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page.read_text(), re.S)
    found = json.loads(data)
    assert isinstance(found, dict)
    return found


def test_base_and_adapter_are_compared_on_the_rows_that_were_kept(
    tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    config = run_config(tiny_model, tiny_data, tmp_path / "run", "train.steps=20", f"data.eval_file={tiny_data}")
    seen: list[Event] = []
    result = train_tracked(config, emit=seen.append)
    page = values(result.output / "report.html")
    report = evaluate(str(tiny_model), tiny_data, adapter=result.output, compute=FLOAT32)
    expected = {one.name: one for one in report.comparison}
    found = {one["name"]: one for one in page["report"]["comparison"]}
    assert list(found) == ["loss", "perplexity", "bits_per_byte"]
    for name, one in found.items():
        assert one["base"] == pytest.approx(expected[name].base, rel=1e-4)
        assert one["adapter"] == pytest.approx(expected[name].adapter, rel=1e-4)
        assert one["low"] == pytest.approx(expected[name].low, rel=1e-3)
    answers = {sample.where: sample.adapter for sample in report.samples}
    rows = page["worst"] + page["best"] + page["same"]
    assert len(rows) == run_report.SAMPLES
    for row in rows:
        assert "".join(piece for piece, _ in row["adapter"]) == answers[row["where"]]
    facts = page["report"]["trained"]["facts"]
    assert facts["steps"] == 20
    memory, step, whole = page["report"]["trained"]["plan"]
    assert memory["name"] == "peak memory, MB"
    assert 0 < memory["measured"] < memory["planned"]
    assert whole["planned"] == pytest.approx(20 * step["planned"])
    assert whole["measured"] == pytest.approx(result.progress.seconds)
    # The run's own log ends as it did before; the report comes behind it.
    finished = next(place for place, event in enumerate(seen) if isinstance(event, RunFinished))
    assert all("report" not in event.stage for event in seen[:finished] if isinstance(event, StageBegun))
    log = (result.output / "events.jsonl").read_text()
    assert "report" not in log


def test_a_run_without_evaluation_rows_has_no_report(tiny_model: Path, tiny_data: Path, tmp_path: Path) -> None:
    result = train_tracked(run_config(tiny_model, tiny_data, tmp_path / "run", "train.steps=1"))
    assert not (result.output / "report.html").exists()


def test_full_fine_tuning_has_no_base_left_to_compare_with(tiny_model: Path, tiny_data: Path, tmp_path: Path) -> None:
    settings = ("method=full", "train.steps=2", "data.held_out=0.2")
    result = train_tracked(run_config(tiny_model, tiny_data, tmp_path / "run", *settings))
    file = result.output / "report.html"
    written = file.stat().st_mtime_ns
    assert train_tracked(run_config(tiny_model, tiny_data, tmp_path / "run", *settings), resume=True).complete_before
    assert file.stat().st_mtime_ns == written
    page = values(file)
    assert page["report"]["comparison"] == []
    assert [one["name"] for one in page["report"]["base"]] == ["loss", "perplexity", "bits_per_byte"]
    assert page["answered"] == 4


def test_what_is_left_out_is_said(
    tiny_model: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_report, "MOST_ROWS", 3)
    monkeypatch.setattr(run_report, "SAMPLES", 2)
    settings = ("train.steps=2", f"data.eval_file={tiny_data}", "data.max_length=60")
    result = train_tracked(run_config(tiny_model, tiny_data, tmp_path / "run", *settings))
    report = report_run(result, lambda event: None)
    assert report is not None
    assert report.rows == 3
    assert len(report.samples) == 2
    trained, left_out, more, few = report.warnings
    assert trained.startswith(
        f"3 of 3 rows were in the training data of the run of {result.output}, so its scores are too good"
    )
    assert list(report.trained_rows) == [str(result.output)]
    assert left_out == "3 of the 20 rows that were kept for evaluation are in this report"
    assert more.startswith("it compares losses")
    assert few.startswith("3 rows say little")
    page = (result.output / "report.html").read_text()
    assert all(text.splitlines()[0] in page for text in (trained, left_out, few))


def test_rows_that_were_kept_are_not_called_trained(tiny_model: Path, tiny_data: Path, tmp_path: Path) -> None:
    result = train_tracked(run_config(tiny_model, tiny_data, tmp_path / "run", "train.steps=2", "data.held_out=0.2"))
    assert "were in the training data" not in (result.output / "report.html").read_text()


def test_a_run_is_complete_where_the_memory_has_no_room_for_its_report(
    tiny_model: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(run_report, "score", full)
    seen: list[Event] = []
    config = run_config(tiny_model, tiny_data, tmp_path / "run", "train.steps=2", "data.held_out=0.2")
    result = train_tracked(config, emit=seen.append)
    assert (result.output / "adapter_model.safetensors").is_file()
    assert not (result.output / "report.html").exists()
    said = [event for event in seen if isinstance(event, Note) and event.level is Level.WARNING]
    assert [note.message for note in said if "not enough memory for its report" in note.message]


def changing(change: Callable[[], object]) -> Callable[[Event], None]:
    """A subscriber that changes something as soon as the last step is made, when the rows have long been read."""

    def hear(event: Event) -> None:
        if isinstance(event, StepDone) and event.step == 2:
            change()

    return hear


def warnings(seen: list[Event]) -> list[str]:
    return [event.message for event in seen if isinstance(event, Note) and event.level is Level.WARNING]


@pytest.mark.parametrize("added", ['{"prompt": "new", "completion": "row"}\n' * 20, '{"broken":'])
def test_rows_that_are_not_those_of_the_run_get_no_report(
    tiny_model: Path, tiny_data: Path, tmp_path: Path, added: str
) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text(tiny_data.read_text())
    config = run_config(tiny_model, rows, tmp_path / "run", "train.steps=2", "data.held_out=0.2")
    seen: list[Event] = []
    result = train_tracked(
        config, emit=broadcast([seen.append, changing(lambda: rows.write_text(rows.read_text() + added))])
    )
    assert (result.output / "run.lock").is_file()
    assert not (result.output / "report.html").exists()
    assert [said for said in warnings(seen) if "there is no report: data data.file: has changed since then" in said]


def test_rows_of_evaluation_are_reported_on_whatever_has_become_of_those_of_training(
    tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text(tiny_data.read_text())
    config = run_config(tiny_model, rows, tmp_path / "run", "train.steps=2", f"data.eval_file={tiny_data}")
    result = train_tracked(config, emit=changing(lambda: rows.write_text("{")))
    assert (result.output / "report.html").is_file()


def test_a_run_is_complete_where_its_report_cannot_be_written(
    tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    config = run_config(tiny_model, tiny_data, tmp_path / "run", "train.steps=2", "data.held_out=0.2")
    seen: list[Event] = []
    page = tmp_path / "run" / "report.html"
    result = train_tracked(config, emit=broadcast([seen.append, changing(lambda: (page / "x").mkdir(parents=True))]))
    assert (result.output / "run.lock").is_file()
    assert [said for said in warnings(seen) if "the run is complete, but its report cannot be written" in said]


def test_new_tokens_are_known_to_the_report(tiny_model: Path, tiny_data: Path, tmp_path: Path) -> None:
    settings = ("train.steps=2", "data.held_out=0.2", "lora.new_tokens=[parcel]")
    result = train_tracked(run_config(tiny_model, tiny_data, tmp_path / "run", *settings))
    assert (result.output / "report.html").is_file()
