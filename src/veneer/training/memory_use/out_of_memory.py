"""Out of memory in training: what happens to a step that does not fit, and the settings that would fit.

Decoded weights that are kept are given back first (`veneer.training.memory_use.kept_weights`). Then the step is made
again in smaller micro-batches. It is the same step: its loss is a sum over its tokens, however it is cut. From then on
the run keeps the smaller size. `Progress` records this, so that a resumed run and `veneer reproduce` use the same
sizes.
"""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from veneer.config import ComputeSection
from veneer.data.micro_batches.batches import MicroBatch
from veneer.enums import Recompute
from veneer.errors import OutOfMemory
from veneer.machine.out_of_memory import KINDS, is_out_of_memory, message_of
from veneer.planning.batch_shape import RowSizes
from veneer.planning.choose import Limit, choose
from veneer.planning.forecast import Forecast
from veneer.planning.memory import MB, TYPICAL_START, libraries
from veneer.planning.plan import Plan
from veneer.training.objectives.base import StepObjective

MOST_HALVINGS = 3
"""How often the micro-batches of a step are halved."""
SMALLER = 0.9
"""The largest share of the memory that failed, by the plan, that a proposal may need."""


@dataclass(frozen=True, slots=True)
class MemoryFault:
    """A micro-batch that did not fit into the memory."""

    batch: MicroBatch
    message: str
    """The message of the error."""

    def half(self, halvings: int) -> int | None:
        """Half of its tokens; None if it is a single row, which cannot be cut, or was halved often enough.

        Args:
            halvings: how often micro-batches were halved before.
        """
        return len(self.batch.tokens) // 2 if self.batch.units > 1 and halvings < MOST_HALVINGS else None

    def refusal(self, doing: str, halvings: int) -> OutOfMemory:
        """The error if it cannot be halved again.

        Args:
            doing: the activity in the message, such as "evaluating".
            halvings: how often micro-batches were halved before.
        """
        tokens = len(self.batch.tokens)
        if self.batch.units == 1:
            why = f"The micro-batch is one row of {tokens:,} tokens, which cannot be cut."
        else:
            why = f"The micro-batches were halved {halvings} times before, to {tokens:,} tokens."
        return OutOfMemory(f"{message_of(doing, self.message)} {why}")

    def alone(self, doing: str) -> OutOfMemory:
        """The error if processes compute together, so that none can make its part smaller by itself.

        Args:
            doing: the activity in the message, such as "evaluating".
        """
        tokens = len(self.batch.tokens)
        return OutOfMemory(
            f"{message_of(doing, self.message)} The micro-batch had {tokens:,} tokens; with compute.sharding=full it "
            "is not halved during the run. Resume from the last checkpoint with a smaller compute.micro_batch_tokens."
        )


def prepared_by(
    objective: StepObjective, batches: Sequence[MicroBatch], doing: str, *, apart: bool
) -> Sequence[MicroBatch] | MemoryFault:
    """Micro-batches with what depends on all of them (`StepObjective.prepared`), or the fault if there is no memory for
    that. The fault names the largest micro-batch, since the preparation computes no more tokens at a time.

    Args:
        objective: the objective of the step or the evaluation.
        batches: all micro-batches of the step or the evaluation.
        doing: the activity in the message, such as "evaluating".
        apart: whether a process can give up by itself.

    Raises:
        OutOfMemory: there is no memory, and processes compute together.
    """
    try:
        return objective.prepared(batches)
    except KINDS as error:
        return fault_of(error, batches, doing, apart=apart)


def fault_of(error: Exception, batches: Sequence[MicroBatch], doing: str, *, apart: bool) -> MemoryFault:
    """The fault for an error of `KINDS`; it names the largest micro-batch. The other arguments are those of
    `prepared_by`.

    Raises:
        OutOfMemory: there is no memory, and processes compute together.
        Exception: the error itself, if it is not about memory.
    """
    if not is_out_of_memory(error):
        raise error
    fault = MemoryFault(max(batches, key=lambda batch: len(batch.tokens)), str(error))
    if not apart:
        raise fault.alone(doing) from None
    return fault


def release_memory(device: torch.device) -> None:
    """Free what a failed step has left in memory."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def what_fits(forecast: Forecast, compute: ComputeSection, rows: RowSizes, had: float) -> str:
    """The settings that would fit into the memory that a run had, by its plan.

    Args:
        forecast: the forecast of the run.
        compute: the section of the run's configuration.
        rows: the sizes of the run's rows.
        had: the bytes that the process had at its peak.
    """
    general = "Lower data.max_length or lora.rank, set compute.recompute=layers, or use method=qlora."
    if not isinstance(forecast, Plan):
        return general
    # Decoded weights had already been given back when it failed.
    planned = replace(forecast.choice.memory, decoded=0).peak
    most = min(had, SMALLER * planned)
    limit = Limit(bytes=most, source="what the process had, or nine tenths of what the plan said")
    open_choice = compute.model_copy(update={"micro_batch_tokens": "auto", "recompute": Recompute.AUTO})
    choice, refusal = choose(forecast.setup, open_choice, rows, limit, start=TYPICAL_START + libraries())
    if refusal is not None:
        return f"By the plan, {refusal}"
    kept = Recompute.LAYERS if choice.recompute else Recompute.NEVER
    return (
        f"By the plan, which said {planned / MB:,.0f} MB, {choice.memory.peak / MB:,.0f} MB are "
        f"enough with --set compute.micro_batch_tokens={choice.micro_batch_tokens} --set "
        f"compute.recompute={kept.value}."
    )
