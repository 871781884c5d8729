"""The decoded weights that QLoRA keeps on a GPU with enough room. They are the first to go if the memory is full.

They only save time: a weight that is decoded at each use has the same values. So the log has a note about it, while
`Progress` and `run.lock` do not record it. A resumed or reproduced run keeps them if it has room.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

from veneer.events import Level, Note, Subscriber
from veneer.machine.out_of_memory import KINDS, is_out_of_memory
from veneer.model.language import LanguageModel
from veneer.processes.group import Group
from veneer.quant.packed import decoded_weights, forget_decoded
from veneer.training.memory_use.out_of_memory import release_memory


@contextmanager
def keeping_decoded(model: LanguageModel, room: int, group: Group, emit: Subscriber) -> Iterator[None]:
    """Let the model keep its quantised weights decoded within the block, if all processes have enough memory.

    Args:
        model: the model.
        room: the bytes that the plan allows for them; 0 keeps none.
        group: the processes of the run, which meet as the block begins. Either all of them keep weights or none does,
            so that they respond alike to a full memory (`give_back_decoded`).
        emit: receives a note if the plan has room but the memory does not, here or in another process.
    """
    with ExitStack() as kept:
        own = room > 0 and _decoded(kept, model, room)
        every = group.gather(torch.tensor([float(own)], dtype=torch.float64))
        if not bool(every.all()):
            kept.close()
            if room > 0:
                _say_given_back(model, emit)
        yield


def _decoded(kept: ExitStack, model: LanguageModel, room: int) -> bool:
    """Enter the block of `decoded_weights`. The result is false if there was not enough memory, and then no weight is
    kept."""
    try:
        kept.enter_context(decoded_weights(model.modules(), model.dtype, room))
    except KINDS as error:
        if not is_out_of_memory(error):
            raise
        return False
    return True


def give_back_decoded(model: LanguageModel, emit: Subscriber) -> bool:
    """Drop the decoded weights that the model keeps, with a note; false if it keeps none."""
    if not forget_decoded(model.modules()):
        return False
    _say_given_back(model, emit)
    return True


def _say_given_back(model: LanguageModel, emit: Subscriber) -> None:
    release_memory(model.device)
    message = "the memory is full: quantised weights are decoded at each use from here on"
    emit(Note(message=message, level=Level.WARNING))
