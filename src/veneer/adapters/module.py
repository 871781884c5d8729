"""A part of an adapter: what stands in the place of one module of the model."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor, nn


class AdapterModule(Protocol):
    """The update of one module. Parts may stand on one another: a trained bias on an update of the weight."""

    enabled: bool
    """Whether the update is there; without it the module is its base."""

    @property
    def base(self) -> object:
        """The module that it stands in for; never changed."""
        ...

    def trained(self) -> dict[str, nn.Parameter]:
        """What is trained, by PEFT's name below the module's path."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """What is saved, likewise: what is trained, and what else makes the update up."""
        ...

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Copy in what was saved; names and shapes are those of `tensors()`."""
        ...

    def fold(self, tensors: dict[str, Tensor]) -> None:
        """Put the update into the module's own tensors, given by name (`weight`, `bias`) in float32 or wider."""
        ...


def copy_in(own: dict[str, Tensor], tensors: dict[str, Tensor]) -> None:
    """Copy tensors over those of the same name."""
    for name, tensor in own.items():
        tensor.copy_(tensors[name])
