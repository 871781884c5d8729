"""The end of a run: its files moved to the top of the output folder, and its loss curve."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from veneer.charts import loss_chart
from veneer.events import read_events
from veneer.io.files import staged_files, write_text
from veneer.training.checkpoint import Progress
from veneer.training.trainable import Trainable

CONFIG_FILE = "config.yaml"
EVENTS_FILE = "events.jsonl"
CURVE_FILE = "loss.svg"
SUMMARY_FILE = "summary.json"


def publish(output: Path, trainable: Trainable, events: Path, progress: Progress) -> None:
    """Write the trained weights, the curve and the summary into `output`, each file atomically.

    Raises:
        OutputError: a file cannot be written; the checkpoints still hold the weights.
    """
    with staged_files(output) as folder:
        trainable.save(folder)
    write_text(output / CURVE_FILE, loss_curve(events))
    write_text(output / SUMMARY_FILE, json.dumps(asdict(progress), indent=2) + "\n")


def loss_curve(events: Path) -> str:
    """An SVG of training and evaluation loss over the steps of an `events.jsonl`."""
    steps: dict[int, float] = {}
    evaluations: dict[int, float] = {}
    for event in read_events(events):
        # A resumed run may have logged a step twice; the later line is the one that counts.
        if event["event"] == "StepDone":
            steps[int(str(event["step"]))] = float(str(event["loss"]))
        elif event["event"] == "Evaluated":
            evaluations[int(str(event["step"]))] = float(str(event["loss"]))
    return loss_chart(steps, evaluations)
