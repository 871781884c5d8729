"""veneer's preferences and rewards by its public interface. Runs in veneer's own environment; see preference_peers.py.

The pass that computes the reference is over all rows of the run, before its first step: each step is charged its share.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from measure import (
    ALPHA,
    ANSWER_TOKENS,
    ANSWERS,
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
from run_veneer import SEED, in_veneers_order

import veneer
from veneer.events import Event, RunStarted, StageBegun, StageEnded, StepDone
from veneer.training.reference import DOING

OWN: dict[str, dict[str, Any]] = {
    "dpo": {},
    "kto": {},
    "grpo": {
        "rewards": [{"metric": "exact", "column": "answer"}],
        "grpo": {"num_generations": ANSWERS, "max_completion_length": ANSWER_TOKENS, "loss_type": "dapo"},
    },
}
"""The settings of each objective; everything else is its default."""


def configuration(task: Task, folder: Path) -> veneer.RunConfig:
    """The common settings in veneer's words."""
    return veneer.RunConfig.model_validate(
        {
            "model": str(task.model),
            "output": str(folder / "run"),
            "method": "qlora" if task.quantized else "lora",
            "objective": task.objective,
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
                "save_every": task.steps,
            },
            "compute": {"device": "cpu", "dtype": "bfloat16", "threads": task.threads},
            **OWN[task.objective],
        }
    )


def run(task: Task, folder: Path) -> Record:
    """Train and measure."""
    clock, reference, done = Clock(), Clock(), list[StepDone]()

    def watch(event: Event) -> None:
        if isinstance(event, StageBegun) and event.stage == DOING:
            reference.start()
        elif isinstance(event, StageEnded) and event.stage == DOING:
            reference.step_ended()
            clock.start()
        elif isinstance(event, RunStarted):
            clock.start()
        elif isinstance(event, StepDone):
            clock.step_ended()
            done.append(event)

    veneer.train(configuration(task, folder), subscribers=[watch])
    wall, cpu = (sum(spans) / len(done) for spans in zip(*reference.spans, strict=True)) if reference.spans else (0, 0)
    steps = [
        Step(wall=span[0] + wall, cpu=span[1] + cpu, tokens=event.tokens, supervised=event.supervised, loss=event.loss)
        for span, event in zip(clock.spans, done, strict=True)
    ]
    return Record(steps=steps, peak_rss_mb=peak_rss_mb(), versions=versions("veneer", "torch"))


def main() -> None:
    """Run the task of the command line."""
    task = parse_task(__doc__)
    with tempfile.TemporaryDirectory() as folder:
        write_record(task.result, run(task, Path(folder)))


if __name__ == "__main__":
    main()
