"""The gradients of a step, summed over its lanes and over the ranks in an order that belongs to the lanes.

    lane k     = its micro-batches' gradients, added in their order
    gradient   = the lanes, added by a fixed binary tree (`veneer.training.parallel.tree`)

A rank adds up its own lanes as far as they are whole subtrees. Then every rank gets one slice of everybody's sums,
adds them by the same tree, and gives its slice of the result to all: 2 (W - 1) / W · G bytes a rank for W ranks and G
bytes of gradients, as a ring takes, in a fixed order. Which bytes come out depends on the number of lanes and on
nothing else.

Before that every rank tells the others how far it has come, so that all give up a step of which one has no part: it
was signalled, or had no memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Protocol

import torch
from torch import Tensor, nn

from veneer.data.micro_batches.batches import MicroBatch
from veneer.processes.group import Alone, Group
from veneer.training.memory_use.out_of_memory import MemoryFault
from veneer.training.objectives.base import Means
from veneer.training.parallel.shards import Shards
from veneer.training.parallel.tree import Node, Tree, lanes_of, subtrees
from veneer.training.step_source import StepBatches


class Halt(IntEnum):
    """Why a rank has not made its part of a step."""

    NONE = 0
    SIGNAL = 1
    MEMORY = 2


@dataclass(frozen=True, slots=True)
class Signalled:
    """A signal came to a rank: the step is given up."""


Outcome = MemoryFault | Signalled | None
"""What kept a rank from its part of a step; None for nothing."""


@dataclass(slots=True)
class Team:
    """How the lanes of a run's steps are dealt out to its ranks."""

    group: Group = field(default_factory=Alone)
    lanes: int = 1
    shards: Shards | None = None
    """This process's parts of the weights, where no process has all of them."""
    _free: list[Tensor] = field(default_factory=list)
    """Buffers of earlier steps, as long as all gradients."""

    @property
    def first(self) -> bool:
        """Whether this process shows progress and writes."""
        return self.group.ranks.first

    @property
    def many(self) -> bool:
        """Whether there are other processes."""
        return self.group.ranks.many

    @property
    def own(self) -> range:
        """The lanes of this rank."""
        return lanes_of(self.group.ranks.rank, self.group.ranks.world, self.lanes)

    @property
    def apart(self) -> bool:
        """Whether a process can compute, save and give up by itself. Where weights are in parts, none can."""
        return self.shards is None or not self.many

    def await_first(self, place: str) -> None:
        """Wait for what the first process does alone, which calls this when it has done so. A collective would wait for
        no longer than its time-out; here a process is waited for as long as it lives.

        Args:
            place: a name that is used once.

        Raises:
            RankLost: the first process is gone.
        """
        if self.first:
            self.group.publish(place, "")
        else:
            self.group.awaited(place)

    def idle(self, lanes: Sequence[Sequence[MicroBatch]]) -> list[MicroBatch]:
        """The micro-batches that this process computes beside its own, to no effect: where weights are in parts, each
        process takes as many steps through the layers as the one that has most.

        Args:
            lanes: the micro-batches of a step.
        """
        if self.apart:
            return []
        world, batches = self.group.ranks.world, [batch for lane in lanes for batch in lane]
        counts = [sum(len(lanes[lane]) for lane in lanes_of(rank, world, self.lanes)) for rank in range(world)]
        smallest = min(batches, key=lambda batch: len(batch.tokens))
        return [smallest] * (max(counts) - counts[self.group.ranks.rank])

    def passing(self) -> AbstractContextManager[None]:
        """A block of forward and backward passes, in which weights that are in parts are gathered.

        Raises:
            RankLost: another process is gone.
        """
        return nullcontext() if self.apart else self.group.reaching()

    def added(self, number: float) -> float:
        """A number of this process's parts, added over all processes in their order."""
        if self.apart:
            return number
        return float(self.group.gather(torch.tensor([number], dtype=torch.float64)).sum())

    def sum(self, parameters: Sequence[nn.Parameter], step: StepBatches) -> LaneSum:
        """What takes the gradients of this rank's lanes of a step."""
        if self.lanes == 1 and not self.many:
            return OneLane(step)
        if self.shards is not None and self.many:
            return SummedInParts(self, self.shards, step)
        return LaneTree(self, parameters, step)

    def agree(self, outcome: Outcome, batches: Sequence[MicroBatch]) -> Outcome:
        """What kept any rank from its part: the lowest rank's.

        Args:
            outcome: what kept this one.
            batches: the micro-batches that all ranks know, one of which a fault is about.
        """
        return _first_of(self.group.gather(_encoded(outcome, batches)), batches, outcome, self.group)

    def buffer(self, size: int, device: torch.device) -> Tensor:
        """A float32 buffer [size] with anything in it."""
        return self._free.pop() if self._free else torch.empty(size, dtype=torch.float32, device=device)

    def give_back(self, buffer: Tensor) -> None:
        """Keep a buffer for later."""
        self._free.append(buffer)


class LaneSum(Protocol):
    """Takes the gradients of a step's lanes, as each of this rank's is done."""

    def add(self, lane: int, means: Means) -> None:
        """Take the gradients that the parameters hold, and the lane's share of the loss."""
        ...

    def total(self, outcome: Outcome) -> Means | MemoryFault | Signalled:
        """Leave the whole step's gradients in the parameters; returns its loss and metrics, or why some rank's part of
        it is missing. `outcome` is why this rank's is."""
        ...


@dataclass(slots=True)
class OneLane:
    """A single lane of a process that is alone: the parameters hold the sum already (`LaneSum`)."""

    step: StepBatches
    means: Means | None = None

    def add(self, lane: int, means: Means) -> None:
        """See `LaneSum`."""
        self.means = means

    def total(self, outcome: Outcome) -> Means | MemoryFault | Signalled:
        """See `LaneSum`."""
        if outcome is not None:
            return outcome
        return self.means or Means(self.step.weights)


@dataclass(slots=True)
class SummedInParts:
    """Weights in parts, whose gradients each backward pass adds over all processes (`LaneSum`)."""

    team: Team
    shards: Shards
    step: StepBatches
    means: dict[int, Means] = field(default_factory=dict)

    def add(self, lane: int, means: Means) -> None:
        """See `LaneSum`."""
        self.means[lane] = means

    def total(self, outcome: Outcome) -> Means | MemoryFault | Signalled:
        """See `LaneSum`."""
        self.shards.take_gradients()
        found = _told(self.team, self.step, self.means, outcome)
        return found if isinstance(found, MemoryFault | Signalled) else _mean_of_lanes(self.team, self.step, found)


class LaneTree:
    """Several lanes, or several processes (`LaneSum`).

    Args:
        team: the run's.
        parameters: whose gradients are summed, all in float32 on one device.
        step: the step.
    """

    def __init__(self, team: Team, parameters: Sequence[nn.Parameter], step: StepBatches):
        self._team, self._step = team, step
        self._parameters = list(parameters)
        world = team.group.ranks.world
        elements = sum(parameter.numel() for parameter in self._parameters)
        self._width = -(-elements // world)
        """Elements of a slice: the gradients are filled up so that all ranks have the same number."""
        self._tree: Tree[Tensor] = Tree(self._added)
        self._means: dict[int, Means] = {}
        self._met = torch.zeros(len(self._parameters), dtype=torch.float64)
        """Whether a gradient of each parameter was met: the optimiser leaves out those without."""

    def _added(self, left: Tensor, right: Tensor) -> Tensor:
        left += right
        self._team.give_back(right)
        return left

    def _buffer(self) -> Tensor:
        size = self._width * self._team.group.ranks.world
        return self._team.buffer(size, self._parameters[0].device)

    @torch.no_grad()
    def add(self, lane: int, means: Means) -> None:
        """See `LaneSum`."""
        buffer, at = self._buffer(), 0
        for number, parameter in enumerate(self._parameters):
            place = buffer[at : at + parameter.numel()]
            if parameter.grad is None:
                place.zero_()
            else:
                place.copy_(parameter.grad.view(-1))
                self._met[number] = 1.0
                parameter.grad = None
            at += parameter.numel()
        buffer[at:].zero_()
        self._tree.lane(lane, buffer)
        self._means[lane] = means

    @torch.no_grad()
    def total(self, outcome: Outcome) -> Means | MemoryFault | Signalled:
        """See `LaneSum`."""
        rest = _told(self._team, self._step, self._means, outcome, self._met)
        if isinstance(rest, MemoryFault | Signalled):
            for node in self._tree.nodes:
                self._team.give_back(node.value)
            return rest
        self._spread(self._whole(), rest[:, rest.shape[1] - len(self._parameters) :].amax(0).tolist())
        return _mean_of_lanes(self._team, self._step, rest)

    def _whole(self) -> Tensor:
        """The sum over all lanes, on every rank."""
        group, lanes = self._team.group, self._team.lanes
        world = group.ranks.world
        nodes = [subtrees(lanes_of(rank, world, lanes)) for rank in range(world)]
        own = [node.value for node in self._tree.nodes]
        if world == 1:
            (whole,) = own
            return whole
        received = group.exchange(self._parts(own), [len(some) for some in nodes])
        tree: Tree[Tensor] = Tree(torch.Tensor.add_)
        for node, part in zip([node for some in nodes for node in some], received, strict=True):
            tree.put(Node(node.level, node.index, part))
        (root,) = tree.nodes
        whole = own[0] if own else self._buffer()
        for value in own[1:]:
            self._team.give_back(value)
        group.join(root.value, whole)
        return whole

    def _parts(self, own: Sequence[Tensor]) -> Tensor:
        """The slices of this rank's sums, by the rank that gets them: [world, sums, width]."""
        world, width = self._team.group.ranks.world, self._width
        if not own:
            return torch.empty(world, 0, width, device=self._parameters[0].device)
        views = [value.view(world, 1, width) for value in own]
        return views[0] if len(views) == 1 else torch.cat(views, dim=1)

    def _spread(self, whole: Tensor, met: Sequence[float]) -> None:
        """Give each parameter its part of the sum; the memory is used again by the next step, which begins when the
        optimiser is done with it."""
        at = 0
        for parameter, one in zip(self._parameters, met, strict=True):
            place = whole[at : at + parameter.numel()]
            parameter.grad = place.view_as(parameter) if one else None
            at += parameter.numel()
        self._team.give_back(whole)


def _told(
    team: Team, step: StepBatches, means: Mapping[int, Means], outcome: Outcome, *more: Tensor
) -> Tensor | MemoryFault | Signalled:
    """The means of every process's lanes, and more numbers: float64 `[world, numbers]`; or what kept any of them from
    its part."""
    batches = [batch for lane in step.lanes for batch in lane]
    own = [means.get(lane, Means(step.weights)).numbers() for lane in range(team.lanes)]
    every = team.group.gather(torch.cat([_encoded(outcome, batches), *own, *more]))
    halted = _first_of(every[:, :STATUS], batches, outcome, team.group)
    return every[:, STATUS:] if halted is None else halted


def _mean_of_lanes(team: Team, step: StepBatches, told: Tensor) -> Means:
    """The means of the whole step, from what `_told` gives."""
    world, width = team.group.ranks.world, 1 + 2 * len(step.weights)
    tree: Tree[Means] = Tree(Means.joined)
    for rank in range(world):
        for lane in lanes_of(rank, world, team.lanes):
            numbers = told[rank, lane * width : (lane + 1) * width]
            tree.lane(lane, Means.of_numbers(step.weights, numbers))
    (root,) = tree.nodes
    return root.value


STATUS = 2
"""Numbers in which a rank says what kept it from its part: why, and the place of the micro-batch."""


def _encoded(outcome: Outcome, batches: Sequence[MicroBatch]) -> Tensor:
    if isinstance(outcome, MemoryFault):
        # By its documents: a micro-batch of an evaluation is another object whenever it is asked for.
        place = next(place for place, batch in enumerate(batches) if batch.numbers == outcome.batch.numbers)
        return torch.tensor([float(Halt.MEMORY), float(place)], dtype=torch.float64)
    return torch.tensor([float(Halt.NONE if outcome is None else Halt.SIGNAL), 0.0], dtype=torch.float64)


def _first_of(status: Tensor, batches: Sequence[MicroBatch], own: Outcome, group: Group) -> Outcome:
    """The outcome of the lowest rank that has one; a signal goes before a want of memory."""
    kinds = [Halt(int(kind)) for kind in status[:, 0].tolist()]
    if Halt.SIGNAL in kinds:
        return Signalled()
    if Halt.MEMORY not in kinds:
        return None
    rank = kinds.index(Halt.MEMORY)
    if rank == group.ranks.rank:
        return own
    return MemoryFault(batches[int(status[rank, 1])], f"out of memory on rank {rank}")
