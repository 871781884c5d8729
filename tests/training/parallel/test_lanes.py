"""Gradients over lanes and ranks: the bits of the plain sum, and the bytes of the formula."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from veneer.data.micro_batches.batches import MicroBatch
from veneer.processes.group import Group
from veneer.processes.ranks import Ranks
from veneer.training.memory_use.out_of_memory import MemoryFault
from veneer.training.objectives.base import Means
from veneer.training.parallel.lanes import Outcome, Signalled, Team
from veneer.training.parallel.tree import lanes_of

SHAPES = ((3, 5), (7,), (2, 1), (4, 4))


@dataclass
class Room:
    """Where threads that stand for ranks meet."""

    world: int
    places: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.places = [None] * self.world
        self.barrier = threading.Barrier(self.world, timeout=20)

    def all(self, rank: int, value: Any) -> list[Any]:
        self.places[rank] = value
        self.barrier.wait()
        found = list(self.places)
        self.barrier.wait()
        return found


class Threads:
    """The collectives of a group, among threads (`Group`)."""

    def __init__(self, rank: int, room: Room):
        self.ranks = Ranks(rank=rank, world=room.world)
        self._room = room
        self.sent = 0

    def gather(self, values: Tensor) -> Tensor:
        return torch.stack(self._room.all(self.ranks.rank, values.clone()))

    def exchange(self, parts: Tensor, sizes: Sequence[int]) -> Tensor:
        self.sent += parts.nbytes // self.ranks.world * (self.ranks.world - 1)
        found = [sent[self.ranks.rank] for sent in self._room.all(self.ranks.rank, parts.clone())]
        assert [len(one) for one in found] == list(sizes)
        return torch.cat(found)

    def join(self, part: Tensor, whole: Tensor) -> None:
        self.sent += part.nbytes * (self.ranks.world - 1)
        whole.copy_(torch.cat(self._room.all(self.ranks.rank, part.clone())))


@dataclass
class Lanes:
    """A step whose lanes hold gradients in place of rows."""

    gradients: Sequence[Sequence[Tensor | None]]
    """Of each lane, by parameter."""
    losses: Sequence[float]
    batch: MicroBatch = field(default_factory=lambda: SimpleNamespace(tokens=[0] * 8, numbers=(0, 1), units=2))  # type: ignore
    weights: Mapping[str, float] = field(default_factory=lambda: {"loss": 1.0, "accuracy": 2.0})

    @property
    def lanes(self) -> list[list[MicroBatch]]:
        return [[self.batch] for _ in self.gradients]


@dataclass
class Found:
    """What a rank ends with."""

    outcome: Means | MemoryFault | Signalled
    gradients: list[Tensor | None]
    sent: int


def over_ranks(world: int, step: Lanes, outcome: Callable[[int], Outcome] = lambda rank: None) -> list[Found]:
    """The sum of a step's lanes, as ranks find it that are threads here."""
    room, found = Room(world), [None] * world

    def work(rank: int) -> None:
        group = Threads(rank, room)
        parameters = [nn.Parameter(torch.zeros(shape)) for shape in SHAPES]
        team = Team(as_group(group), len(step.gradients))
        for _ in range(2):  # the second step uses the buffers of the first
            sums = team.sum(parameters, step)
            for lane in team.own:
                for parameter, gradient in zip(parameters, step.gradients[lane], strict=True):
                    parameter.grad = None if gradient is None else gradient.clone()
                sums.add(lane, Means(step.weights, step.losses[lane], {"accuracy": 2 * step.losses[lane]}))
            ended = sums.total(outcome(rank))
        found[rank] = Found(ended, [parameter.grad for parameter in parameters], group.sent // 2)  # type: ignore

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(world)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found  # type: ignore[return-value]


def as_group(threads: Threads) -> Group:
    return threads  # type: ignore[return-value]


def by_halves(values: Sequence[Tensor]) -> Tensor:
    """The sum of the lanes, as docs/many-devices.md has it."""
    if len(values) == 1:
        return values[0]
    half = len(values) // 2
    return by_halves(values[:half]) + by_halves(values[half:])


def random_step(lanes: int, seed: int) -> Lanes:
    generator = torch.Generator().manual_seed(seed)

    def gradient(shape: tuple[int, ...]) -> Tensor:
        return torch.randn(shape, generator=generator) * 10 ** torch.randint(-6, 6, shape, generator=generator)

    gradients = [[gradient(shape) for shape in SHAPES] for _ in range(lanes)]
    return Lanes(gradients, torch.randn(lanes, generator=generator).double().tolist())


@pytest.mark.parametrize("lanes", [1, 2, 4, 8])
@pytest.mark.parametrize("world", [1, 2, 3, 4, 7])
def test_any_number_of_ranks_finds_the_bits_of_the_plain_sum(world: int, lanes: int) -> None:
    step = random_step(lanes, seed=7 * world + lanes)
    expected = [by_halves([one[place] for one in step.gradients]) for place in range(len(SHAPES))]  # type: ignore
    loss = float(by_halves([torch.tensor(loss, dtype=torch.float64) for loss in step.losses]))
    for found in over_ranks(world, step):
        assert isinstance(found.outcome, Means)
        assert found.outcome.loss == loss
        assert found.outcome.metrics["accuracy"] == pytest.approx(2 * loss)
        for gradient, wanted in zip(found.gradients, expected, strict=True):
            assert gradient is not None
            assert torch.equal(gradient, wanted)


@pytest.mark.parametrize(("world", "lanes"), [(2, 2), (2, 8), (4, 4), (4, 16)])
def test_a_step_sends_two_times_the_gradients_less_a_ranks_share(world: int, lanes: int) -> None:
    elements = sum(torch.Size(shape).numel() for shape in SHAPES)
    size = 4 * world * -(-elements // world)  # filled up to equal slices
    for found in over_ranks(world, random_step(lanes, seed=3)):
        assert found.sent == 2 * (world - 1) * size // world


def test_a_parameter_without_a_gradient_in_any_lane_has_none() -> None:
    step = random_step(4, seed=1)
    gradients = [[None if place == 1 or lane < 3 <= place else one for place, one in enumerate(own)] for lane, own in
                 enumerate(step.gradients)]  # fmt: skip
    for world in (1, 2, 4):
        for found in over_ranks(world, Lanes(gradients, step.losses)):
            assert found.gradients[1] is None
            assert found.gradients[3] is not None
            assert torch.equal(found.gradients[3], step.gradients[3][3])  # type: ignore[arg-type]


def test_all_ranks_give_up_a_step_that_one_has_not_made() -> None:
    step = random_step(4, seed=2)
    for found in over_ranks(4, step, lambda rank: Signalled() if rank == 2 else None):
        assert isinstance(found.outcome, Signalled)
    fault = MemoryFault(step.batch, "no room")
    ended = over_ranks(4, step, lambda rank: fault if rank == 1 else None)
    assert all(isinstance(found.outcome, MemoryFault) and found.outcome.half(0) == 4 for found in ended)
    assert [found.outcome.message for found in ended if isinstance(found.outcome, MemoryFault)] == [
        "out of memory on rank 1", "no room", "out of memory on rank 1", "out of memory on rank 1",
    ]  # fmt: skip


def test_ranks_without_lanes_take_part() -> None:
    assert [list(lanes_of(rank, 3, 2)) for rank in range(3)] == [[], [0], [1]]
    step = random_step(2, seed=5)
    for found in over_ranks(3, step):
        assert torch.equal(found.gradients[0], step.gradients[0][0] + step.gradients[1][0])  # type: ignore
