"""A number of every step of a run, in 16 bytes a step: of a run over a large corpus there are millions."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping

MOST = 2**53
"""No number of a step reaches it; below it every whole number has a float."""


def step_number(value: object) -> int:
    """The number of a step as a log has it, or another count. A program that has rewritten the log may have made `3.0`
    of `3`.

    Raises:
        ValueError: it is no whole number of a step.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < MOST or value != int(value):
        raise ValueError(f"{value!r} is no number of a step")
    return int(value)


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
