"""The end of a run: its files at the top of the output folder, and its loss curve."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from veneer.enums import ObjectiveName
from veneer.event_log import by_step
from veneer.html.charts import loss_chart
from veneer.io.files import reported, staged_files, write_text
from veneer.run_folder import RunFolder
from veneer.text.strict_json import to_text
from veneer.training.folder.progress import Progress


def publish(
    folder: RunFolder, write: Callable[[Path], None], progress: Progress, published: int, objective: ObjectiveName
) -> None:
    """Write the trained weights, the curve and the summary into the run's folder, each file atomically.

    Args:
        folder: the folder of the run.
        write: writes the files of the trained weights into a folder.
        progress: the position at which the run ended.
        published: the step whose weights are published.
        objective: the objective of the run.

    Raises:
        OutputError: a file cannot be written; the checkpoints still hold the weights.
    """
    with staged_files(folder.path) as staged:
        write(staged)
        with reported(folder.path):
            # A kill from here on must not leave new weights with the digests of older ones.
            folder.lock_file.unlink(missing_ok=True)
    write_text(folder.curve_file, loss_curve(folder, objective))
    reached = asdict(progress) | {"published_step": published}
    for key in ("evaluation_due", "bad_in_a_row", "window", "schedules"):
        del reached[key]  # they are for later steps, or are in `run.lock`
    for key in ("micro_batches", "loss_scales", "skipped"):
        if not reached[key]:
            del reached[key]
    if reached["best_value"] is None:
        del reached["best_value"]  # it is the loss
    write_text(folder.summary_file, to_text(reached, indent=2) + "\n")


def loss_curve(folder: RunFolder, objective: ObjectiveName) -> str:
    """An SVG of the training and evaluation loss over the steps in a run's events."""
    steps, evaluations = (by_step(folder.each_event(), kind, "loss") for kind in ("StepDone", "Evaluated"))
    return loss_chart(steps, evaluations, objective.loss_unit)
