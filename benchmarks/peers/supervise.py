"""Watching a transformers `Trainer`, for the peers that have one."""

from __future__ import annotations

from typing import Any

from measure import CLIP, LEARNING_RATE, Clock, Step, Task
from transformers import Trainer, TrainerCallback


def common_arguments(task: Task, scratch: str, answers: int = 1) -> dict[str, Any]:
    """What all systems are given, in the words of transformers' `TrainingArguments`; a row has so many answers."""
    return {
        "output_dir": scratch,
        "per_device_train_batch_size": task.rows_per_step * answers,
        "max_steps": task.steps,
        "learning_rate": LEARNING_RATE,
        "lr_scheduler_type": "constant",
        "max_grad_norm": CLIP,
        "logging_steps": 1,
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
        "seed": 0,
    }


class EndOfStep(TrainerCallback):
    """Tells the clock of every step; the first one begins with training."""

    def __init__(self, clock: Clock):
        self._clock = clock

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Start the clock."""
        self._clock.start()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Note the step."""
        self._clock.step_ended()


def steps_of(trainer: Trainer, clock: Clock) -> list[Step]:
    """What each step of a finished training took, its tokens counted in the batches as the trainer collates them.

    The rows are taken in sequence, so going through the trainer's own batches again gives those that were trained.

    Raises:
        RuntimeError: the trainer's own count of tokens, where it keeps one, says otherwise.
    """
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    steps = []
    for (wall, cpu), loss, batch in zip(clock.spans, losses, trainer.get_train_dataloader(), strict=False):
        # A flattened batch has no mask and no padding.
        tokens = batch["attention_mask"].sum() if "attention_mask" in batch else batch["input_ids"].numel()
        supervised = (batch["labels"][:, 1:] != -100).sum()
        steps.append(Step(wall=wall, cpu=cpu, tokens=int(tokens), supervised=int(supervised), loss=loss))
    logged = [int(entry["num_tokens"]) for entry in trainer.state.log_history if "num_tokens" in entry]
    counted = sum(step.tokens for step in steps)
    if len(steps) != len(clock.spans) or (logged and logged[len(losses) - 1] != counted):
        raise RuntimeError(f"{len(steps)} steps of {counted} tokens were counted, the trainer logged {logged}")
    return steps
