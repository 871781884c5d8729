"""Modules that are fully trained together with an adapter and saved with it (PEFT's `modules_to_save`)."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from veneer.adapters.module import ModulePlace, SavesTrained
from veneer.errors import AdapterError
from veneer.model.leaves import DenseLinear, Embedding, NormModule, WideNorm
from veneer.products import BaseLinear
from veneer.tables import HoldsTable, TokenLookup, copied_table

LINEAR_LEAVES = frozenset(
    ["q_proj", "k_proj", "v_proj", "qkv_proj", "o_proj", "gate_proj", "up_proj", "gate_up_proj", "down_proj", "lm_head"]
)
"""Last names of the decoders' linear layers; a router, which is a linear layer too, is not among them."""


def trainable_copy(module: nn.Module, path: str) -> nn.Module:
    """A trainable float32 copy of a linear layer, norm or embedding. A quantised layer is decoded.

    Raises:
        AdapterError: the module has no weights of its own.
    """
    if isinstance(module, TokenLookup):
        return Embedding(nn.Parameter(copied_table(module.table, torch.float32)))
    if isinstance(module, NormModule):
        own = module.bias if isinstance(module, WideNorm) else None
        return module.of(_parameter(module.weight), None if own is None else _parameter(own))
    if not isinstance(module, nn.ModuleList) and path.rpartition(".")[2] in LINEAR_LEAVES:
        bias = _parameter(module.bias) if isinstance(module.bias, Tensor) else None
        if isinstance(module, HoldsTable):
            return DenseLinear(nn.Parameter(copied_table(module.table, torch.float32)), bias)
        return DenseLinear(_parameter(cast(BaseLinear, module).dequantize(torch.float32)), bias)
    raise AdapterError(
        f"modules_to_save: {path} is a {type(module).__name__} and has no weights of its own; name the modules in it"
    )


def _parameter(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor.detach().float().clone())


class SavedModule(SavesTrained):
    """A module with a trained copy, which is in its place while the adapter is enabled.

    Args:
        place: place of the module in the model.
        base: the frozen module.
        own: the trained copy.
        tied: whether the weight belongs to another saved module, which trains it.
    """

    whole = True
    """Whether all tensors of the module are trained and saved."""

    def __init__(self, place: ModulePlace, base: nn.Module, own: nn.Module, *, tied: bool = False):
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
        """Make the weight one of `rows` rows, which `load` fills, for a resized vocabulary."""
        weight = self.own.get_parameter("weight")
        if rows != len(weight):
            weight.data = weight.new_empty(rows, weight.shape[1])

    def trained(self) -> dict[str, nn.Parameter]:
        """Parameters of the copy, unless it is tied. See `AdapterModule.trained`."""
        return {} if self.tied else dict(self.own.named_parameters())

    def tensors(self) -> dict[str, Tensor]:
        """Tensors of the copy, also of a tied one, since PEFT looks for them. See `AdapterModule.tensors`."""
        return {name: tensor.detach() for name, tensor in self.own.named_parameters()}

    def merge_into(self, tensors: dict[str, Tensor]) -> None:
        """Replace all tensors. See `AdapterModule.merge_into`."""
        for name, tensor in self.tensors().items():
            tensors[name] = tensor.to(tensors[name].dtype)


class TrainedNormBias(SavedModule):
    """A norm of which only the bias is trained (`bias: all`).

    Args:
        place: place of the norm in the model.
        base: the frozen norm, which has a bias.
    """

    whole = False

    def __init__(self, place: ModulePlace, base: WideNorm):
        assert base.bias is not None
        super().__init__(place, base, base.of(base.weight, _parameter(base.bias)))

    def trained(self) -> dict[str, nn.Parameter]:
        """The bias. See `AdapterModule.trained`."""
        return {"bias": self.own.get_parameter("bias")}

    def tensors(self) -> dict[str, Tensor]:
        """The bias. See `AdapterModule.tensors`."""
        return {"bias": self.own.get_parameter("bias").detach()}
