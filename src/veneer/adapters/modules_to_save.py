"""Modules that are trained whole beside an adapter and saved with it (PEFT's `modules_to_save`)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from veneer.adapters.module import copy_in
from veneer.errors import AdapterError
from veneer.model.language import Modules
from veneer.model.leaves import DenseLinear, Embedding, RmsNorm, WideNorm


@dataclass(frozen=True, slots=True)
class Place:
    """Where a module hangs in the model."""

    parent: nn.Module
    leaf: str

    @classmethod
    def of(cls, model: Modules, path: str) -> Place:
        """The place of a path."""
        above, _, leaf = path.rpartition(".")
        return cls(model.get_submodule(above), leaf)

    def put(self, module: nn.Module) -> None:
        """Hang a module there."""
        setattr(self.parent, self.leaf, module)


def trainable_copy(module: nn.Module, path: str) -> nn.Module:
    """A copy of a leaf of the decoder in float32, with gradients; a quantised one is decoded.

    Raises:
        AdapterError: the module is none of those that hold weights of their own.
    """
    if isinstance(module, Embedding):
        return Embedding(_parameter(module.weight))
    if isinstance(module, RmsNorm):
        own = module.bias if isinstance(module, WideNorm) else None
        return module.of(_parameter(module.weight), None if own is None else _parameter(own))
    if not isinstance(module, nn.ModuleList) and path.rpartition(".")[2] in LINEAR_LEAVES:
        bias = module.bias
        weight: Tensor = module.dequantize(torch.float32)  # type: ignore[operator]
        return DenseLinear(_parameter(weight), _parameter(bias) if isinstance(bias, Tensor) else None)
    raise AdapterError(
        f"modules_to_save: {path} is a {type(module).__name__} and holds no weights of its own; name what is in it"
    )


LINEAR_LEAVES = frozenset(
    (
        "q_proj",
        "k_proj",
        "v_proj",
        "qkv_proj",
        "o_proj",
        "gate_proj",
        "up_proj",
        "gate_up_proj",
        "down_proj",
        "lm_head",
    ),
)
"""Last names of the decoders' linear layers."""


def _parameter(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor.detach().float().clone())


class SavedModule:
    """A module with a trained copy, which hangs in its place while the adapter is enabled.

    Args:
        place: of the module.
        base: the frozen one.
        own: the trained one.
        tied: whether its weight is that of another saved module, which trains it.
    """

    whole = True
    """Whether all of the module is trained and saved."""

    def __init__(self, place: Place, base: nn.Module, own: nn.Module, *, tied: bool = False):
        self.base, self.own = base, own
        self._place, self.tied = place, tied
        self._enabled = False
        self.enabled = True

    @property
    def enabled(self) -> bool:
        """Whether the trained copy is in place."""
        return self._enabled

    @enabled.setter
    def enabled(self, value: bool) -> None:
        self._enabled = value
        self._place.put(self.own if value else self.base)

    def resize(self, rows: int) -> None:
        """Make room for a weight with another number of rows, which `load` fills: the vocabulary was resized."""
        weight = self.own.get_parameter("weight")
        if rows != len(weight):
            weight.data = weight.new_empty(rows, weight.shape[1])

    def trained(self) -> dict[str, nn.Parameter]:
        """The module's own parameters; see `AdapterModule`."""
        return {} if self.tied else dict(self.own.named_parameters())

    def tensors(self) -> dict[str, Tensor]:
        """The same, those of a tie once more: PEFT looks for them. See `AdapterModule`."""
        return {name: tensor.detach() for name, tensor in self.own.named_parameters()}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take them; see `AdapterModule`."""
        copy_in(self.tensors(), tensors)

    def fold(self, tensors: dict[str, Tensor]) -> None:
        """Replace all tensors; see `AdapterModule`."""
        for name, tensor in self.tensors().items():
            tensors[name] = tensor.to(tensors[name].dtype)


class TrainedNormBias(SavedModule):
    """A norm of which the bias alone is trained (`bias: all`).

    Args:
        place: of the norm.
        base: the frozen one, which has a bias.
    """

    whole = False

    def __init__(self, place: Place, base: WideNorm):
        assert base.bias is not None
        super().__init__(place, base, base.of(base.weight, _parameter(base.bias)))

    def trained(self) -> dict[str, nn.Parameter]:
        """The bias; see `AdapterModule`."""
        return {"bias": self.own.get_parameter("bias")}

    def tensors(self) -> dict[str, Tensor]:
        """The same; see `AdapterModule`."""
        return {"bias": self.own.get_parameter("bias").detach()}
