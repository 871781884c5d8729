"""veneer by its public interface. Runs in veneer's own environment; see compare.py."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from measure import (
    ALPHA,
    CLIP,
    LEARNING_RATE,
    MAX_LENGTH,
    RANK,
    Clock,
    Record,
    Step,
    Task,
    parse_task,
    peak_rss_mb,
    versions,
    write_record,
)

import veneer
from veneer.config import parse
from veneer.config.values import read_yaml
from veneer.data.micro_batches.orders import order
from veneer.events import Event, RunStarted, StepDone
from veneer.native import library
from veneer.training.run_inputs import prepare_run

sys.path.append(str(Path(__file__).parents[1]))
from floor import floor_seconds, seconds

SEED = 0


def common_settings(task: Task, folder: Path) -> dict[str, Any]:
    """What all systems are given, in veneer's words; everything else is its default."""
    return {
        "model": str(task.model),
        "output": str(folder / "run"),
        "method": "qlora" if task.quantized else "lora",
        "data": {"file": str(in_veneers_order(task, folder / "rows.jsonl")), "max_length": MAX_LENGTH},
        "lora": {"rank": RANK, "alpha": ALPHA},
        "train": {
            "examples_per_step": task.rows_per_step,
            "steps": task.steps,
            "learning_rate": LEARNING_RATE,
            "schedule": "constant",
            "warmup": 0.0,
            "clip": CLIP,
            "seed": SEED,
            # One checkpoint, at the end: so short a run would write one after every step, and the peers write none.
            "save_every": task.steps,
        },
        "compute": {"device": "cpu", "dtype": task.dtype, "threads": task.threads},
    }


def configuration(task: Task, folder: Path) -> veneer.RunConfig:
    """The settings of fine-tuning."""
    settings = common_settings(task, folder)
    return veneer.RunConfig.model_validate({**settings, "data": {**settings["data"], "overlong": "truncate"}})


def in_veneers_order(task: Task, path: Path) -> Path:
    """Write the rows so that veneer, which shuffles, takes them in sequence."""
    lines = task.rows.read_text(encoding="utf-8").splitlines()[: task.steps * task.rows_per_step]
    shuffled = [""] * len(lines)
    for line, place in zip(lines, order(len(lines), seed=SEED, epoch=0), strict=True):
        shuffled[place] = line
    path.write_text("\n".join(shuffled) + "\n", encoding="utf-8")
    return path


def run(task: Task, folder: Path) -> Record:
    """Train and measure."""
    if task.variant is not None:
        library.use_variant(task.variant)
    config = configuration(task, folder)
    clock = Clock()
    done: list[StepDone] = []

    def watch(event: Event) -> None:
        if isinstance(event, RunStarted):
            clock.start()
        elif isinstance(event, StepDone):
            clock.step_ended()
            done.append(event)

    veneer.train(config, subscribers=[watch])
    steps = [
        Step(wall=wall, cpu=cpu, tokens=event.tokens, supervised=event.supervised, loss=event.loss)
        for (wall, cpu), event in zip(clock.spans, done, strict=True)
    ]
    peak = peak_rss_mb()
    # As it was written by the run: with the micro-batch that was chosen.
    resolved = parse(read_yaml(Path(config.output) / "config.yaml"), where="config.yaml")
    more = {"floor": floors(task, resolved)} if task.floor else {}
    return Record(steps=steps, peak_rss_mb=peak, versions=versions("veneer", "torch"), more=more)


def floors(task: Task, config: veneer.RunConfig) -> list[float]:
    """The floor in seconds of each step but the first, from the step's own micro-batches."""
    torch.set_num_threads(task.threads)
    inputs = prepare_run(config, lambda event: None)
    steps = [inputs.data.steps.micro_batches(step) for step in range(2, task.steps + 1)]
    dtype = getattr(torch, task.dtype)
    return [
        floor_seconds(
            inputs.origin.config,
            RANK,
            [(len(b.tokens), b.supervised) for b in step],
            lambda product: seconds(product, rounds=5, dtype=dtype),
        )
        for step in steps
    ]


def main() -> None:
    """Run the task of the command line."""
    task = parse_task(__doc__)
    with tempfile.TemporaryDirectory() as folder:
        write_record(task.result, run(task, Path(folder)))


if __name__ == "__main__":
    main()
