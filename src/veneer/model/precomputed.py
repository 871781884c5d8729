"""What modules compute from their parameters at every call, and may keep while those stand still."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager

from veneer.model.language import HasModules


class Held(ABC):
    """A module with such a thing."""

    @abstractmethod
    def hold(self) -> None:
        """Compute it once, and keep it until `release`."""

    @abstractmethod
    def release(self) -> None:
        """Forget it."""


@contextmanager
def held(model: HasModules) -> Iterator[None]:
    """Within the block no parameter changes, so that what follows from them is computed once: for generation, whose
    many small calls would each do it again. Training cannot tell when its parameters change, and does not hold."""
    holders = [module for module in model.modules() if isinstance(module, Held)]
    try:
        for module in holders:
            module.hold()
        yield
    finally:
        for module in holders:
            module.release()
