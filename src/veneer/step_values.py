"""Stores a number for every step of a run in 16 bytes per step, since a run over a large corpus has millions of
steps."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping

MOST = 2**53
"""The number of a step is below this; every whole number below it is exact as a float."""


def step_number(value: object) -> int:
    """The number of a step, or another count, as a log has it. A program that has rewritten the log may have turned `3`
    into `3.0`.

    Raises:
        ValueError: the value is not a whole number that a step can have.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < MOST or value != int(value):
        raise ValueError(f"{value!r} is not the number of a step")
    return int(value)


class StepValues(Mapping[int, float]):
    """A mapping from steps to numbers, in the order of the steps.

    Args:
        told: steps and their numbers, in the order in which they were recorded. If a step is recorded again, as by a
            resumed run, the earlier numbers of this step and of later ones are dropped.
    """

    def __init__(self, told: Iterable[tuple[int, float]]) -> None:
        self.steps = array("q")
        """The steps, in ascending order."""
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
