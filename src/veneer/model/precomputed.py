"""What modules compute from their parameters in every call, and may keep while the parameters do not change."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch import nn


class Precomputes(ABC):
    """A module that can compute something from its parameters once, for many calls."""

    @abstractmethod
    def precompute(self) -> None:
        """Compute it now, and use it in every call until `forget_precomputed`."""

    @abstractmethod
    def forget_precomputed(self) -> None:
        """Compute it in every call again."""


@contextmanager
def precomputed(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Within the block no parameter of `modules` may change: what follows from the parameters is computed once.

    Generation makes many small calls, each of which would compute it again. Training does not use this, since its
    parameters change.
    """
    found = [module for module in modules if isinstance(module, Precomputes)]
    try:
        for module in found:
            module.precompute()
        yield
    finally:
        for module in found:
            module.forget_precomputed()
