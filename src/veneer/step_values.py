"""A number of every step of a run, in 16 bytes a step: of a run over a large corpus there are millions."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping


class StepValues(Mapping[int, float]):
    """A number by the step that it was told of, in the order of the steps.

    Args:
        told: steps and their numbers, as they were told. Where a step is told of again, as by a run that was resumed,
            what was told of it and of later steps before does not count any more.
    """

    def __init__(self, told: Iterable[tuple[int, float]]) -> None:
        self.steps = array("q")
        """The steps, growing."""
        self.numbers = array("d")
        """The number of each."""
        for step, number in told:
            if self.steps and step <= self.steps[-1]:
                place = bisect_left(self.steps, step)
                del self.steps[place:], self.numbers[place:]
            self.steps.append(step)
            self.numbers.append(number)

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[int]:
        return iter(self.steps)

    def __getitem__(self, step: int, /) -> float:
        place = bisect_left(self.steps, step)
        if place == len(self.steps) or self.steps[place] != step:
            raise KeyError(step)
        return self.numbers[place]
