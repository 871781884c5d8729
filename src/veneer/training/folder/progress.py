"""The position of a run as its checkpoints record it, and the check that refuses impossible ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

from veneer.errors import CheckpointError, listing
from veneer.text.json_numbers import is_finite, is_whole
from veneer.training.bad_steps import IN_A_ROW, WINDOW
from veneer.training.loss_scale import Changes, scale_at


@dataclass(slots=True)
class Progress:
    """The position of a run. Together with the weights and the optimiser's state it is all that a resumption needs."""

    step: int = 0
    """The number of completed steps."""
    tokens: int = 0
    """The number of trained tokens."""
    seconds: float = 0.0
    """Seconds spent in steps, over all sessions of the run."""
    best_step: int | None = None
    """The step of the best evaluation (`veneer.training.evaluations.best`)."""
    best_loss: float | None = None
    """The loss of the best evaluation."""
    best_value: float | None = None
    """The metric that makes the best evaluation the best; None if that is the loss."""
    stale_evaluations: int = 0
    """The number of evaluations since the best one."""
    evaluation_due: bool = False
    """Whether the evaluation after the step is still due, because a signal ended it."""
    micro_batches: list[list[int]] = field(default_factory=list)
    """Sizes of micro-batches other than `compute.micro_batch_tokens`, in order: pairs of a first step, and the most
    tokens of a micro-batch from there. Micro-batches become smaller when the memory was full."""
    loss_scales: Changes = field(default_factory=list)
    """The factors of the loss in float16, in order: pairs of a first step and its factor
    (`veneer.training.loss_scale`). Empty in other dtypes."""
    schedules: list[list[int]] = field(default_factory=list)
    """The schedules that the run has followed, in order: pairs of the number of completed steps before each, and the
    number of steps that it spans. There are several if the run was made longer."""
    skipped: int = 0
    """The number of bad steps that were skipped."""
    bad_in_a_row: int = 0
    """The number of bad steps since the last good one."""
    window: list[list[float]] = field(default_factory=list)
    """The loss and gradient norm of the last good steps, which bad steps are detected by
    (`veneer.training.bad_steps`)."""

    def micro_batch_tokens(self, step: int) -> int | None:
        """The most tokens that a micro-batch of the step has; None for `compute.micro_batch_tokens`."""
        return next((tokens for first, tokens in reversed(self.micro_batches) if first <= step), None)

    def loss_scale(self, step: int) -> int:
        """The factor of the step's loss; 1 outside float16."""
        return scale_at(self.loss_scales, step)

    def shrink(self, step: int, tokens: int, before: int | None = None) -> None:
        """Use smaller micro-batches from a step on.

        Args:
            step: the first step with smaller micro-batches.
            tokens: the most tokens of a micro-batch from then on.
            before: the most tokens until then, if `compute.micro_batch_tokens` no longer says so.
        """
        if before is not None and not self.micro_batches:
            self.micro_batches.append([1, before])
        self.micro_batches = [pair for pair in self.micro_batches if pair[0] < step]
        self.micro_batches.append([step, tokens])

    def follow_schedule(self, steps: int) -> None:
        """Follow a schedule that spans so many steps from the next step on."""
        if not self.schedules or self.schedules[-1][1] != steps:
            # A schedule without a step is dropped.
            self.schedules = [pair for pair in self.schedules if pair[0] < self.step]
            self.schedules.append([self.step, steps])


def check_progress(progress: Progress, step: int, steps: object, file: Path) -> None:
    """Refuse a position that no run can have, such as one in a state that was edited by hand.

    Args:
        progress: the position in the state.
        step: the step in the name of the checkpoint's folder.
        steps: the number of steps of the whole run, if its identity has it.
        file: the file of the checkpoint with the state.

    Raises:
        CheckpointError: values are impossible; all are named.
    """
    best_step, best_loss, best_value = progress.best_step, progress.best_loss, progress.best_value
    fits = {
        "step": is_count(progress.step) and progress.step == step and not (is_count(steps) and step > steps),
        "tokens": is_count(progress.tokens),
        "seconds": is_finite(progress.seconds) and progress.seconds >= 0,
        "best_step": best_step is None or (is_count(best_step) and best_step <= step),
        "best_loss": best_loss is None or is_finite(best_loss),
        "best_value": best_value is None or is_finite(best_value),
        "stale_evaluations": is_count(progress.stale_evaluations),
        "evaluation_due": isinstance(progress.evaluation_due, bool),
        "micro_batches": _are_sizes(progress.micro_batches),
        "loss_scales": _are_sizes(progress.loss_scales) and all(pair[0] == 1 for pair in progress.loss_scales[:1]),
        "schedules": _are_schedules(progress.schedules, step),
        "skipped": is_count(progress.skipped) and progress.skipped <= step,
        "bad_in_a_row": is_count(progress.bad_in_a_row) and progress.bad_in_a_row < IN_A_ROW,
        "window": _is_window(progress.window),
    }
    wrong = [f"{name}: {asdict(progress)[name]!r}" for name, possible in fits.items() if not possible]
    if wrong:
        raise CheckpointError(
            f"{file} holds impossible values:\n{listing(wrong)}\n"
            f"Delete {file.parent} to resume from the checkpoint before it, or start again in another output folder."
        )


def _is_window(value: object) -> bool:
    """Whether a value is a list of pairs of finite numbers, no longer than the window."""
    return _are_pairs(value, lambda one, other: is_finite(one) and is_finite(other)) and len(value) <= WINDOW


def _are_sizes(value: object) -> bool:
    """Whether a value is a list of pairs of positive numbers with increasing first numbers."""
    return _are_pairs(value, lambda one, other: is_count(one) and is_count(other) and one > 0 < other) and _grow(value)


def _are_schedules(value: object, step: int) -> bool:
    """Whether a value is a list of pairs of counts, with first numbers that increase from 0 to at most the step."""
    if not _are_pairs(value, lambda one, other: is_count(one) and is_count(other) and other > 0):
        return False
    return _grow(value) and (not value or (value[0][0] == 0 and value[-1][0] <= step))


def _are_pairs(value: object, fits: Callable[[object, object], bool]) -> TypeGuard[list[list[Any]]]:
    """Whether a value is a list of pairs whose numbers fit."""
    return isinstance(value, list) and all(isinstance(pair, list) and len(pair) == 2 and fits(*pair) for pair in value)


def _grow(pairs: list[list[Any]]) -> bool:
    """Whether the first numbers of pairs increase."""
    firsts = [pair[0] for pair in pairs]
    return firsts == sorted(set(firsts))


def is_count(value: object) -> TypeGuard[int]:
    """Whether a value is a whole number of at least 0."""
    return is_whole(value, 0)


def ended(progress: Progress, steps: int, patience: int | None) -> bool:
    """Whether a run of so many steps has no step left, or has run out of patience."""
    return progress.step >= steps or (patience is not None and progress.stale_evaluations >= patience)
