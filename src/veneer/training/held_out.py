"""The evaluation loss of a run: a signal ends it between two micro-batches, and it fits itself to the memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from veneer.data.batches import MicroBatch
from veneer.events import Note, Stage, Subscriber
from veneer.model.language import LanguageModel
from veneer.out_of_memory import KINDS, is_out_of_memory
from veneer.signals import stop_signalled
from veneer.training.objective import means
from veneer.training.objectives.base import Means, StepObjective
from veneer.training.out_of_memory import MemoryFault, release_memory

DOING = "evaluating"


class _SignalCame(Exception):
    """A signal came between two micro-batches."""


def evaluation(
    model: LanguageModel,
    batches_for: Callable[[int | None], Sequence[MicroBatch]],
    objective: StepObjective,
    emit: Subscriber,
) -> Callable[[], Means | None]:
    """A function that measures the evaluation loss and metrics of the model as it is, and tells how far that is; None
    where a signal ended it.

    Where the memory is full it starts again with smaller micro-batches, which have the same loss to rounding. Every
    evaluation starts with the run's own, so that a resumed run finds the same loss.

    Args:
        model: the model.
        batches_for: packs the evaluation rows into micro-batches of so many tokens at most, or as the run does.
        objective: over the model.
        emit: told how far it is.
    """

    def evaluate() -> Means | None:
        batches = batches_for(None)
        halvings = 0
        while isinstance(found := _attempt(model, batches, objective, emit), MemoryFault):
            release_memory(model.device)
            tokens = found.half(halvings)
            if tokens is None:
                raise found.refusal(DOING, halvings)
            emit(Note(message=f"the memory is full: evaluating in micro-batches of up to {tokens:,} tokens"))
            batches = batches_for(tokens)
            halvings += 1
        return found

    return evaluate


def _attempt(
    model: LanguageModel, batches: Sequence[MicroBatch], objective: StepObjective, emit: Subscriber
) -> Means | MemoryFault | None:
    def advance(stage: Stage) -> None:
        stage.advance()
        if stop_signalled():
            raise _SignalCame

    try:
        with Stage(emit, DOING, total=len(batches), unit="micro-batches") as stage:
            return means(model, batches, objective, lambda: advance(stage))
    except _SignalCame:
        return None
    except KINDS as error:
        if not is_out_of_memory(error):
            raise
        return MemoryFault(max(batches, key=lambda batch: len(batch.tokens)), str(error))
