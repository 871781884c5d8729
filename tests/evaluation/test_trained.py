from __future__ import annotations

from pathlib import Path

import pytest

from helpers.models.tiny import rows, run_config, write_rows
from veneer.config import SourceSection
from veneer.errors import AdapterError
from veneer.evaluation import trained
from veneer.evaluation.trained import training_facts
from veneer.event_log import by_step
from veneer.run_folder import RunFolder
from veneer.training.run import train


def test_the_facts_are_those_of_the_run(
    tiny_model: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = run_config(tiny_model, tiny_data, tmp_path / "run", "train.steps=6", "data.held_out=0.2", "train.seed=3")
    result = train(config)
    found = training_facts(result.output)
    assert found is not None
    facts = found["facts"]
    assert (facts["seed"], facts["steps"], facts["training rows"], facts["evaluation rows"]) == (3, 6, 16, 4)
    assert facts["base model"] == str(tiny_model)
    assert str(tiny_data) in facts["data files"]
    assert facts["best evaluation loss"].startswith(f"{result.progress.best_loss:.4f} after step")
    losses = by_step(RunFolder(result.output).events(), "StepDone", "loss")
    assert dict(found["losses"]["steps"]) == losses
    assert (facts["objective"], found["loss_unit"]) == ("sft", "nats per supervised token")
    assert training_facts(result.output / "checkpoints" / "step-000006") == found
    monkeypatch.setattr(trained, "POINTS", 3)
    thinned = training_facts(result.output)
    assert thinned is not None
    assert [step for step, _ in thinned["losses"]["steps"]] == [1, 3, 5]
    lock = RunFolder(result.output).lock_file
    lock.write_text(lock.read_text()[:50])
    with pytest.raises(AdapterError, match=r"run\.lock is damaged"):
        training_facts(result.output)


def test_the_files_of_sources_and_patterns_are_named(tiny_model: Path, tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        write_rows(tmp_path / f"{name}.jsonl", rows(4))
    config = run_config(tiny_model, tmp_path / "a.jsonl", tmp_path / "run", "train.steps=1")
    sources = (SourceSection(file=str(tmp_path / "[ab].jsonl")), SourceSection(file=str(tmp_path / "c.jsonl")))
    found = training_facts(train(config.changed("data", {"file": None, "sources": sources})).output)
    assert found is not None
    files = [one.partition(" (SHA-256")[0] for one in found["facts"]["data files"].split(", ")]
    assert files == ["a.jsonl", "b.jsonl", str(tmp_path / "c.jsonl")]


def test_an_adapter_without_a_record_has_no_facts(tmp_path: Path) -> None:
    assert training_facts(None) is None
    assert training_facts(tmp_path) is None
