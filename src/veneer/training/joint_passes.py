"""Passes with micro-batches of several runs side by side, each with its own adapter.

The base is decoded once for all, and each adapter multiplies its own tokens. On a CPU a pass holds only as many
micro-batches as are worthwhile: beyond some hundred tokens more width gains nothing, and what a layer passes to the
next no longer stays in the caches. The remaining micro-batches follow in more passes.

A micro-batch is laid out as it would be alone, with its own filler and its own shared beginning, so that every product
gets the same rows. The trained weights are the same, bit for bit if the sums of a row do not depend on the rows next to
it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from veneer.adapters.layers.routed import Route
from veneer.data.micro_batches.batches import MicroBatch
from veneer.gpu.transfer import sent
from veneer.machine.out_of_memory import KINDS, is_out_of_memory
from veneer.model.decoder import CausalLM
from veneer.runtime.signals import stop_signalled
from veneer.training.objectives.base import Means, Objective, Sums
from veneer.training.over_model import attention_of
from veneer.training.step_source import StepBatches

JOINED_TOKENS = 1024
"""The most tokens that are computed side by side on a CPU (benchmarks/together.py)."""


@dataclass(frozen=True, slots=True)
class PassFault:
    """A pass that did not fit into the memory."""

    batches: Sequence[tuple[str, MicroBatch]]
    """The micro-batches of the pass, each with the name of its adapter."""
    message: str
    """The message of the error."""

    @property
    def tokens(self) -> int:
        """Tokens of the pass."""
        return sum(len(batch.tokens) for _, batch in self.batches)


def in_passes(batches: Mapping[str, Sequence[MicroBatch]], width: int) -> list[list[tuple[str, MicroBatch]]]:
    """Distribute the micro-batches of each run over passes.

    A pass has at most one micro-batch of each run, and at most `width` tokens in total unless a single micro-batch is
    wider. The micro-batches of a run stay in their order.
    """
    passes: list[list[tuple[str, MicroBatch]]] = []
    for place in range(max(len(own) for own in batches.values())):
        room = 0
        for name, own in batches.items():
            if place >= len(own):
                continue
            size = len(own[place].tokens)
            if size > room:
                passes.append([])
                room = max(width, size)
            passes[-1].append((name, own[place]))
            room -= size
    return passes


@dataclass(frozen=True, slots=True)
class Joint:
    """A model whose passes are routed."""

    model: CausalLM
    route: Route
    heads: Mapping[str, nn.Module]
    """The heads of the adapters that change the head, by adapter: each scores its own rows."""
    objectives: Mapping[str, Objective]
    """The objective of each adapter's run, by adapter."""

    def sums(self, batches: Sequence[tuple[str, MicroBatch]]) -> list[Sums]:
        """The objectives of micro-batches under adapters, in one pass."""
        device = self.model.device
        sizes = [len(batch.tokens) for _, batch in batches]
        self.route.lay([name for name, _ in batches], sizes)
        hidden = self.model.hidden(
            sent(torch.cat([batch.tokens for _, batch in batches]), device),
            sent(torch.cat([batch.positions for _, batch in batches]), device),
            attention_of(*(batch for _, batch in batches)),
        )
        own: Sequence[Tensor] = torch.split(hidden, sizes)
        return [
            self.objectives[name].sums(rows, self.heads.get(name, self.model.lm_head), self.model.spec.scores, batch)
            for rows, (name, batch) in zip(own, batches, strict=True)
        ]

    def passes(
        self, batches: Mapping[str, Sequence[MicroBatch]], width: int | None = None
    ) -> list[list[tuple[str, MicroBatch]]]:
        """The passes of `in_passes`; if no width is given, a CPU uses the widest worthwhile one."""
        return in_passes(batches, width or (JOINED_TOKENS if self.model.device.type == "cpu" else sys.maxsize))

    def attempt(
        self, batches: Sequence[tuple[str, MicroBatch]], loss: Callable[[str, Sums], Tensor]
    ) -> list[Sums] | PassFault:
        """Run forward and backward of a pass, or return the fault, so that nothing holds its tensors.

        Args:
            batches: micro-batches, each with the name of its adapter.
            loss: the part of a micro-batch in the loss, by adapter and sums.
        """
        try:
            sums = self.sums(batches)
            torch.autograd.backward([loss(name, own) for own, (name, _) in zip(sums, batches, strict=True)])
        except KINDS as error:
            if not is_out_of_memory(error):
                raise
            return PassFault(tuple(batches), str(error))
        return sums

    def gradients(
        self, steps: Mapping[str, StepBatches], width: int | None = None
    ) -> dict[str, Means] | PassFault | None:
        """Run forward and backward of a step of each run, in passes of `width` tokens, and return the losses and
        metrics. The result is None if a signal came between two passes, and a fault if there was no memory for one."""
        means = {name: Means(step.weights) for name, step in steps.items()}
        for batches in self.passes({name: step.batches for name, step in steps.items()}, width):
            if stop_signalled():
                return None
            outcome = self.attempt(batches, lambda name, sums: steps[name].loss(sums))
            if isinstance(outcome, PassFault):
                return outcome
            for (name, _), sums in zip(batches, outcome, strict=True):
                means[name].add(sums)
        return means


@dataclass(frozen=True, slots=True)
class OverJoint:
    """The objective of one of the runs, over the model that they share (`StepObjective`)."""

    joint: Joint
    name: str

    def prepared(self, batches: Sequence[MicroBatch]) -> Sequence[MicroBatch]:
        """The micro-batches as they are: objectives that depend on all of them are only for runs by themselves."""
        return batches

    def weights(self, batches: Sequence[MicroBatch]) -> Mapping[str, float]:
        """See `Objective.weights`."""
        return self.joint.objectives[self.name].weights(batches)

    def sums(self, batch: MicroBatch) -> Sums:
        """The sums over one micro-batch, in a pass of its own."""
        return self.joint.sums([(self.name, batch)])[0]
