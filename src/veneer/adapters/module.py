"""`AdapterModule`: a module with an update, which replaces one module of the model at its `ModulePlace`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from veneer.model.language import Modules


class AdapterModule(Protocol):
    """A module of the model together with its trained update (PEFT: a tuner layer).

    Adapter modules may be nested: a trained bias over an update of the weight.
    """

    enabled: bool
    """Whether the update is applied. Where it is not, the module computes as its base."""

    @property
    def base(self) -> object:
        """The module of the model that this one replaces. It is never changed."""
        ...

    def trained(self) -> dict[str, nn.Parameter]:
        """The trained parameters, by PEFT's names below the path of the module."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """The tensors that are saved, by such names: the trained ones, and fixed ones that the update needs."""
        ...

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Copy saved tensors in. Names and shapes are those of `tensors()`."""
        ...

    def merge_into(self, tensors: dict[str, Tensor]) -> None:
        """Merge the update into the base's tensors, given by name (`weight`, `bias`) in float32 or wider."""
        ...


@dataclass(frozen=True, slots=True)
class ModulePlace:
    """The place of a module in the model: its parent and its name there."""

    parent: nn.Module
    leaf: str

    @classmethod
    def of(cls, model: Modules, path: str) -> ModulePlace:
        """The place of a path."""
        above, _, leaf = path.rpartition(".")
        return cls(model.get_submodule(above), leaf)

    def put(self, module: nn.Module) -> None:
        """Put a module in this place."""
        setattr(self.parent, self.leaf, module)


class SavesTrained(ABC):
    """A module with an update that saves what it trains, and nothing else."""

    @abstractmethod
    def trained(self) -> dict[str, nn.Parameter]:
        """See `AdapterModule.trained`."""

    def tensors(self) -> dict[str, Tensor]:
        """See `AdapterModule.tensors`."""
        return {name: tensor.detach() for name, tensor in self.trained().items()}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """See `AdapterModule.load`."""
        copy_tensors(self.tensors(), tensors)


def copy_tensors(own: dict[str, Tensor], tensors: dict[str, Tensor]) -> None:
    """Copy each tensor over the one in `own` that has its name."""
    for name, tensor in own.items():
        tensor.copy_(tensors[name])
