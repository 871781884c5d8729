"""Keeps inputs of recomputed layers in main memory while a GPU does not need them.

A forward pass copies each input to main memory while the next layers compute; the backward pass fetches it one layer
ahead of its use. Copies run in parallel with the computation, in a stream of their own, from and to pinned memory, and
the program waits for none of them. There are never more than four inputs on the GPU: two on their way out, and two on
their way back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

ON_CARD = 4
"""Inputs of layers that are on the card at once, at most."""
LEAVING_INPUTS = 2
"""Inputs among them that are on their way to the main memory, at most."""


class Copier(Protocol):
    """Copies between a device and main memory. Each method also returns a function that makes the device's computation
    wait for the copy, while the program continues."""

    def away(self, x: Tensor) -> tuple[Tensor, Callable[[], None]]:
        """Start to copy x to main memory, and return the copy there. x must be kept until the computation has
        waited."""
        ...

    def back(self, x: Tensor) -> tuple[Tensor, Callable[[], None]]:
        """Begin to copy x from the main memory. Its copy may be used once the computation has waited."""
        ...


class CardCopier:
    """Copies of a GPU (`Copier`)."""

    def __init__(self, device: torch.device):
        self._device = device
        self._stream = torch.cuda.Stream(device)

    def away(self, x: Tensor) -> tuple[Tensor, Callable[[], None]]:
        """See `Copier.away`."""
        host = torch.empty(x.shape, dtype=x.dtype, pin_memory=True)
        return host, self._copied(host, x)

    def back(self, x: Tensor) -> tuple[Tensor, Callable[[], None]]:
        """See `Copier.back`."""
        # Room of the computing stream, which gets it back: the allocator need not know of the other stream.
        own = torch.empty(x.shape, dtype=x.dtype, device=self._device)
        return own, self._copied(own, x)

    def _copied(self, target: Tensor, source: Tensor) -> Callable[[], None]:
        computing = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(computing)
        with torch.cuda.stream(self._stream):
            target.copy_(source, non_blocking=True)
        done = self._stream.record_event()
        return lambda: computing.wait_event(done)


@dataclass(slots=True)
class ParkedInputs:
    """The inputs of the layers of one forward pass."""

    copier: Copier
    _parked: list[Tensor] = field(default_factory=list)
    """Their copies in the main memory, in the order of the layers."""
    _leaving: list[tuple[Tensor, Callable[[], None]]] = field(default_factory=list)
    _coming: dict[int, tuple[Tensor, Callable[[], None]]] = field(default_factory=dict)

    def put(self, x: Tensor) -> int:
        """Start to copy the next layer's input to main memory, and return its place for `take`."""
        while len(self._leaving) >= LEAVING_INPUTS:
            # Its memory is released after the copy: the computation waits if copies are slower than layers.
            _, wait = self._leaving.pop(0)
            wait()
        kept = x.detach()
        copy, wait = self.copier.away(kept)
        self._leaving.append((kept, wait))
        self._parked.append(copy)
        return len(self._parked) - 1

    def take(self, place: int) -> Tensor:
        """An input; the computation waits for its copy, the program does not. The copy of the input before it is
        started."""
        for _, wait in self._leaving:
            wait()
        self._leaving.clear()
        ahead = place in self._coming
        x, wait = self._coming.pop(place) if ahead else self.copier.back(self._parked[place])
        wait()
        if place > 0 and place - 1 not in self._coming:
            self._coming[place - 1] = self.copier.back(self._parked[place - 1])
        return x
