"""The decoded weights that QLoRA keeps on a GPU with room: where the memory is full, they are given back first.

They save time and nothing else: a weight that is decoded at each use has the same values. So the log has a note of it,
and `Progress` and `run.lock` have nothing: a resumed run, or one that is made again, keeps them where it has room.
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
    """Let the model keep its quantised weights decoded within the block, if all processes have the memory for them.

    Args:
        model: the model.
        room: bytes that they may take by the plan; 0 keeps none.
        group: the processes of the run, which meet as the block begins. Either all of them keep weights or none, so
            that they answer to a full memory alike (`give_back_decoded`).
        emit: told where the plan has room and the memory has none, here or for another process.
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
    """Enter the block of `decoded_weights`; false where there was no memory for them, and none is kept then."""
    try:
        kept.enter_context(decoded_weights(model.modules(), model.dtype, room))
    except KINDS as error:
        if not is_out_of_memory(error):
            raise
        return False
    return True


def give_back_decoded(model: LanguageModel, emit: Subscriber) -> bool:
    """Forget the decoded weights that the model keeps, and say so; false where it keeps none."""
    if not forget_decoded(model.modules()):
        return False
    _say_given_back(model, emit)
    return True


def _say_given_back(model: LanguageModel, emit: Subscriber) -> None:
    release_memory(model.device)
    message = "the memory is full: quantised weights are decoded at each use from here on"
    emit(Note(message=message, level=Level.WARNING))
