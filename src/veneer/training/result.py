"""The end of a run: its files moved to the top of the output folder, and its loss curve."""

from __future__ import annotations

import json
from dataclasses import asdict

from veneer.charts import loss_chart
from veneer.events import by_step
from veneer.io.files import staged_files, write_text
from veneer.run_folder import RunFolder
from veneer.training.checkpoint import Progress
from veneer.training.trainable import Trainable


def publish(folder: RunFolder, trainable: Trainable, progress: Progress) -> None:
    """Write the trained weights, the curve and the summary into the run's folder, each file atomically.

    Raises:
        OutputError: a file cannot be written; the checkpoints still hold the weights.
    """
    with staged_files(folder.path) as staged:
        trainable.save(staged)
    write_text(folder.curve_file, loss_curve(folder))
    reached = asdict(progress)
    del reached["evaluation_due"]  # nothing is due any more
    write_text(folder.summary_file, json.dumps(reached, indent=2) + "\n")


def loss_curve(folder: RunFolder) -> str:
    """An SVG of training and evaluation loss over the steps that a run's events tell of."""
    events = folder.events()
    return loss_chart(by_step(events, "StepDone", "loss"), by_step(events, "Evaluated", "loss"))
