"""The gradients of a step, summed over its lanes and over the ranks in an order that depends on the lanes alone.

    lane k     = its micro-batches' gradients, added in their order
    gradient   = the lanes, added by a fixed binary tree (`veneer.training.parallel.tree`)

A rank adds up its own lanes as far as they are whole subtrees. Then every rank gets one slice of all ranks' sums, adds
them by the same tree, and sends its slice of the result to all: 2 (W - 1) / W · G bytes a rank for W ranks and G bytes
of gradients, as many as a ring needs, but in a fixed order. The resulting bytes depend on the number of lanes and on
nothing else.

Before that every rank tells the others how far it has come. If a rank was signalled, or had no memory, all give up the
step.
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
    """Why a rank has not computed its part of a step."""

    NONE = 0
    SIGNAL = 1
    MEMORY = 2


@dataclass(frozen=True, slots=True)
class Signalled:
    """A signal came to a rank, so the step is given up."""


Outcome = MemoryFault | Signalled | None
"""What prevented a rank from computing its part of a step; None if nothing did."""


@dataclass(slots=True)
class Team:
    """How the lanes of a run's steps are distributed over its ranks."""

    group: Group = field(default_factory=Alone)
    lanes: int = 1
    shards: Shards | None = None
    """This process's parts of the weights, if no process has all of them."""
    _free: list[Tensor] = field(default_factory=list)
    """Buffers of earlier steps, each as long as all gradients."""

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
        """Whether a process can compute, save and give up by itself. If the weights are in parts, none can."""
        return self.shards is None or not self.many

    def await_first(self, place: str) -> None:
        """Wait until the first process has done something that it does alone; it calls this function afterwards. A
        collective would wait no longer than its time-out; here the others wait as long as the first process lives.

        Args:
            place: a name that is used only once.

        Raises:
            RankLost: the first process is gone.
        """
        if self.first:
            self.group.publish(place, "")
        else:
            self.group.awaited(place)

    def idle(self, lanes: Sequence[Sequence[MicroBatch]]) -> list[MicroBatch]:
        """The extra micro-batches that this process computes, to no effect. If the weights are in parts, each process
        must go through the layers as often as the process with the most micro-batches.

        Args:
            lanes: the micro-batches of the step, by lane.
        """
        if self.apart:
            return []
        world, batches = self.group.ranks.world, [batch for lane in lanes for batch in lane]
        counts = [sum(len(lanes[lane]) for lane in lanes_of(rank, world, self.lanes)) for rank in range(world)]
        smallest = min(batches, key=lambda batch: len(batch.tokens))
        return [smallest] * (max(counts) - counts[self.group.ranks.rank])

    def passing(self) -> AbstractContextManager[None]:
        """A block of forward and backward passes, in which weights in parts are gathered.

        Raises:
            RankLost: another process is gone.
        """
        return nullcontext() if self.apart else self.group.reaching()

    def added(self, number: float) -> float:
        """A number that is computed from this process's parts, summed over all processes in their order."""
        if self.apart:
            return number
        return float(self.group.gather(torch.tensor([number], dtype=torch.float64)).sum())

    def sum(self, parameters: Sequence[nn.Parameter], step: StepBatches) -> LaneSum:
        """The object that adds up the gradients of this rank's lanes of a step."""
        if self.lanes == 1 and not self.many:
            return OneLane(step)
        if self.shards is not None and self.many:
            return SummedInParts(self, self.shards, step)
        return LaneTree(self, parameters, step)

    def agree(self, outcome: Outcome, batches: Sequence[MicroBatch]) -> Outcome:
        """What prevented any rank from computing its part: the outcome of the lowest such rank.

        Args:
            outcome: the outcome of this rank.
            batches: the micro-batches, which all ranks know; a fault belongs to one of them.
        """
        return _first_of(self.group.gather(_encoded(outcome, batches)), batches, outcome, self.group)

    def buffer(self, size: int, device: torch.device) -> Tensor:
        """A float32 buffer [size] with arbitrary content."""
        return self._free.pop() if self._free else torch.empty(size, dtype=torch.float32, device=device)

    def give_back(self, buffer: Tensor) -> None:
        """Keep a buffer for later use."""
        self._free.append(buffer)


class LaneSum(Protocol):
    """Adds up the gradients of a step's lanes, as this rank completes each."""

    def add(self, lane: int, means: Means) -> None:
        """Take the gradients from the parameters, and the lane's share of the loss."""
        ...

    def total(self, outcome: Outcome) -> Means | MemoryFault | Signalled:
        """Put the whole step's gradients into the parameters. Returns its loss and metrics, or why a rank's part is
        missing. `outcome` is what prevented this rank's part."""
        ...


@dataclass(slots=True)
class OneLane:
    """A single lane in a single process: the parameters already hold the sum (`LaneSum`)."""

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
    """Weights in parts, whose gradients each backward pass sums over all processes (`LaneSum`)."""

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
        gathered = _gathered(self.team, self.step, self.means, outcome)
        if isinstance(gathered, MemoryFault | Signalled):
            return gathered
        return _mean_of_lanes(self.team, self.step, gathered)


class LaneTree:
    """Several lanes, or several processes (`LaneSum`).

    Args:
        team: the team of the run.
        parameters: the parameters with the gradients, all in float32 on one device.
    """

    def __init__(self, team: Team, parameters: Sequence[nn.Parameter], step: StepBatches):
        self._team, self._step = team, step
        self._parameters = list(parameters)
        world = team.group.ranks.world
        elements = sum(parameter.numel() for parameter in self._parameters)
        self._width = -(-elements // world)
        """The elements of a slice: the gradients are padded so that all ranks have equally many."""
        self._tree: Tree[Tensor] = Tree(self._added)
        self._means: dict[int, Means] = {}
        self._had_gradient = torch.zeros(len(self._parameters), dtype=torch.float64)
        """Whether each parameter had a gradient: the optimiser skips those without."""

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
                self._had_gradient[number] = 1.0
                parameter.grad = None
            at += parameter.numel()
        buffer[at:].zero_()
        self._tree.lane(lane, buffer)
        self._means[lane] = means

    @torch.no_grad()
    def total(self, outcome: Outcome) -> Means | MemoryFault | Signalled:
        """See `LaneSum`."""
        gathered = _gathered(self._team, self._step, self._means, outcome, self._had_gradient)
        if isinstance(gathered, MemoryFault | Signalled):
            for node in self._tree.nodes:
                self._team.give_back(node.value)
            return gathered
        had_gradient = gathered[:, gathered.shape[1] - len(self._parameters) :].amax(0)
        self._spread(self._whole(), had_gradient.tolist())
        return _mean_of_lanes(self._team, self._step, gathered)

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

    def _spread(self, whole: Tensor, had_gradient: Sequence[float]) -> None:
        """Give each parameter that had a gradient its part of the sum. The next step reuses the memory, and begins when
        the optimiser no longer needs it."""
        at = 0
        for parameter, had in zip(self._parameters, had_gradient, strict=True):
            place = whole[at : at + parameter.numel()]
            parameter.grad = place.view_as(parameter) if had else None
            at += parameter.numel()
        self._team.give_back(whole)


def _gathered(
    team: Team, step: StepBatches, means: Mapping[int, Means], outcome: Outcome, *more: Tensor
) -> Tensor | MemoryFault | Signalled:
    """The means of every process's lanes, and more numbers: float64 `[world, numbers]`. Or what prevented a process
    from computing its part."""
    batches = [batch for lane in step.lanes for batch in lane]
    own = [means.get(lane, Means(step.weights)).numbers() for lane in range(team.lanes)]
    every = team.group.gather(torch.cat([_encoded(outcome, batches), *own, *more]))
    halted = _first_of(every[:, :STATUS], batches, outcome, team.group)
    return every[:, STATUS:] if halted is None else halted


def _mean_of_lanes(team: Team, step: StepBatches, gathered: Tensor) -> Means:
    """The means of the whole step, from the result of `_gathered`."""
    world, width = team.group.ranks.world, 1 + 2 * len(step.weights)
    tree: Tree[Means] = Tree(Means.joined)
    for rank in range(world):
        for lane in lanes_of(rank, world, team.lanes):
            numbers = gathered[rank, lane * width : (lane + 1) * width]
            tree.lane(lane, Means.of_numbers(step.weights, numbers))
    (root,) = tree.nodes
    return root.value


STATUS = 2
"""How many numbers a rank sends about what prevented its part: the reason, and the place of the micro-batch."""


def _encoded(outcome: Outcome, batches: Sequence[MicroBatch]) -> Tensor:
    if isinstance(outcome, MemoryFault):
        # Compared by its documents: a micro-batch of an evaluation is a new object each time it is read.
        place = next(place for place, batch in enumerate(batches) if batch.numbers == outcome.batch.numbers)
        return torch.tensor([float(Halt.MEMORY), float(place)], dtype=torch.float64)
    return torch.tensor([float(Halt.NONE if outcome is None else Halt.SIGNAL), 0.0], dtype=torch.float64)


def _first_of(status: Tensor, batches: Sequence[MicroBatch], own: Outcome, group: Group) -> Outcome:
    """The outcome of the lowest rank that has one; a signal takes precedence over a lack of memory."""
    kinds = [Halt(int(kind)) for kind in status[:, 0].tolist()]
    if Halt.SIGNAL in kinds:
        return Signalled()
    if Halt.MEMORY not in kinds:
        return None
    rank = kinds.index(Halt.MEMORY)
    if rank == group.ranks.rank:
        return own
    return MemoryFault(batches[int(status[rank, 1])], f"out of memory on rank {rank}")
