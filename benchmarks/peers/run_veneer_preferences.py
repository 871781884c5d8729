"""veneer's preferences and rewards by its public interface. Runs in veneer's own environment; see preference_peers.py.

The pass that computes the reference is over all rows of the run, before its first step: each step is charged its share.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from measure import (
    ANSWER_TOKENS,
    ANSWERS,
    Clock,
    Record,
    Step,
    Task,
    parse_task,
    peak_rss_mb,
    versions,
    write_record,
)
from run_veneer import common_settings

import veneer
from veneer.events import Event, RunStarted, StageBegun, StageEnded, StepDone
from veneer.training.references.reference import DOING

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
    """The settings of the objective."""
    settings = {**common_settings(task, folder), "objective": task.objective, **OWN[task.objective]}
    return veneer.RunConfig.model_validate(settings)


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
