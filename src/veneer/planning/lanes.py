"""The effect of lanes and processes on the plan of a run (docs/many-devices.md)."""

from __future__ import annotations

from dataclasses import dataclass

PART_FILE = 1 << 26
"""The bytes of a file in a checkpoint with parts; two copies of it are in memory while it is written."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Spread:
    """The lanes of a run, and the processes that they are distributed over."""

    lanes: int = 1
    processes: int = 1
    sharded: bool = False
    """Whether each process holds a part of the weights, their gradients and the optimiser's state."""

    @property
    def in_parts(self) -> bool:
        """Whether there are processes that do not hold everything."""
        return self.sharded and self.processes > 1

    def part(self, size: int) -> int:
        """The part of a process, of so many bytes of weights, gradients or state."""
        return -(-size // self.processes) if self.in_parts else size

    @property
    def largest_share(self) -> int:
        """The number of lanes of the process with the most lanes."""
        return -(-self.lanes // self.processes)

    @property
    def gradient_sums(self) -> int:
        """The most buffers of the size of all gradients that a process holds in addition to the gradients themselves.

        The tree over a process's lanes holds one for each level, and one for the current lane; the exchange receives
        one more when the parameters hold none. If the processes do not divide the lanes evenly, some hold two subtrees
        a level, which are sent and received as well.
        """
        if self.in_parts or (self.lanes == 1 and self.processes == 1):
            return 0
        levels = (self.largest_share - 1).bit_length()
        return levels + 1 if self.lanes % self.processes == 0 else 3 * (2 * levels + 1)

    @property
    def at_once(self) -> int:
        """The number of processes that have lanes."""
        return min(self.lanes, self.processes)

    def sent(self, gradients: int) -> int:
        """Bytes that a process sends in a step, if the lanes divide evenly.

        Args:
            gradients: bytes of all gradients.
        """
        return 2 * (self.processes - 1) * gradients // self.processes

    def gathered(self, layers: int, ends: int, passes: float, *, recompute: bool) -> int:
        """Bytes that a process sends in a step if the weights are in parts. The weights of the layers are gathered in
        forward and in backward, and once more if backward computes them again; all gradients are added once.

        Args:
            layers: bytes of the layers' weights.
            ends: bytes of the other weights.
            passes: the number of micro-batches that a process computes in a step.
            recompute: whether backward computes the layers again.
        """
        times = (4 if recompute else 3) * layers + 2 * ends
        return int(passes * times * (self.processes - 1) / self.processes)


ALONE = Spread()
"""One lane of one process."""
