from __future__ import annotations

import json
from pathlib import Path

import pytest

from veneer.enums import ObjectiveName
from veneer.errors import OutputError
from veneer.run_folder import RunFolder
from veneer.training.folder.progress import Progress
from veneer.training.folder.result import loss_curve, publish

PROGRESS = Progress(step=3, tokens=30, seconds=0.5)


class Weights:
    """A `Trainable` that writes one file, or fails behind it."""

    def __init__(self, *, fails: bool = False):
        self.fails = fails

    def save(self, directory: Path) -> None:
        (directory / "weights").write_text("new")
        if self.fails:
            raise OutputError("the disk is full")


def folder(path: Path) -> RunFolder:
    lines = [{"event": "StepDone", "step": step, "loss": 3.0 - step, "seconds": 1, "memory_mb": 1} for step in (1, 2)]
    lines.append({"event": "Evaluated", "step": 2, "loss": 1.5})
    (path / "events.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (path / "weights").write_text("older")
    return RunFolder(path)


def test_weights_curve_and_summary_are_written_and_the_digests_of_older_weights_are_gone(tmp_path: Path) -> None:
    run = folder(tmp_path)
    run.lock_file.write_text("{}")
    publish(run, Weights().save, PROGRESS, 2, ObjectiveName.SFT)
    assert (tmp_path / "weights").read_text() == "new"
    summary = json.loads(run.summary_file.read_text())
    assert (summary["step"], summary["published_step"], summary["tokens"]) == (3, 2, 30)
    assert "evaluation_due" not in summary
    assert run.curve_file.read_text() == loss_curve(run, ObjectiveName.SFT)
    assert not run.lock_file.exists()


def test_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    run = folder(tmp_path)
    with pytest.raises(OutputError, match="the disk is full"):
        publish(run, Weights(fails=True).save, PROGRESS, 3, ObjectiveName.SFT)
    assert (tmp_path / "weights").read_text() == "older"
    assert not run.summary_file.exists()


def test_the_curve_has_both_losses_over_the_steps(tmp_path: Path) -> None:
    drawn = loss_curve(folder(tmp_path), ObjectiveName.SFT)
    assert "nats per supervised token" in drawn
    assert "nats" not in loss_curve(folder(tmp_path), ObjectiveName.DPO), "a loss that is a formula"
    assert drawn.startswith("<svg")
    assert drawn.count("<polyline") + drawn.count("<path") + drawn.count("<circle") >= 2
    assert loss_curve(RunFolder(tmp_path / "absent"), ObjectiveName.SFT).startswith("<svg")
