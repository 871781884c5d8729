"""A loaded run holds its weights and gradients as its memory plan decided.

Two decisions are carried out earlier: `training.build` rounds an adapter's factors before there is an optimiser, and
`training.session` sets up `compute.recompute`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch import nn

from veneer.events import Subscriber
from veneer.gpu.parked import CardCopier
from veneer.model.decoder import CausalLM
from veneer.model.language import LanguageModel
from veneer.planning.plan import Plan
from veneer.processes.group import Group
from veneer.training.memory_use.kept_gradients import gradients_in_place
from veneer.training.memory_use.kept_weights import keeping_decoded


@contextmanager
def as_planned(
    model: LanguageModel, trained: Iterable[nn.Parameter], plan: Plan | None, group: Group, emit: Subscriber
) -> Iterator[None]:
    """Carry out the decisions of a plan. Decoded weights and gradients are kept within the block; an embedding that
    moves to the main memory, and inputs of layers that wait there, stay so.

    Args:
        model: the loaded model.
        trained: the parameters that the optimiser changes.
        plan: the plan of the run; None decides nothing.
        group: the processes of the run, which all enter the block together.
        emit: receives a note if there is less memory than planned.
    """
    memory = None if plan is None else plan.choice.memory
    if memory is not None and isinstance(model, CausalLM):
        if memory.hosted:
            model.host_embedding()
        if memory.parked:
            model.park_inputs(CardCopier(model.device))
    room = 0 if memory is None else memory.decoded
    in_place = trained if memory is not None and memory.gradients_kept else ()
    with keeping_decoded(model, room, group, emit), gradients_in_place(in_place):
        yield
