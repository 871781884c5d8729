"""DoRA: magnitude and direction of a weight's rows are trained separately (Liu et al., 2024, arXiv:2402.09353).

    W' = m / ‖W + s B A‖ · (W + s B A)        for each row; m starts as ‖W + s B A‖

As in section 4.3 of the paper, the norm is a constant in backward. It is computed in float32 from the weight in use.
The factor m / ‖·‖ is near 1 and changes in its last digits, so it multiplies the product in float32: in bfloat16 it
would be rounded to the same number while m is trained.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from veneer.adapters.files.names import MAGNITUDE
from veneer.adapters.layers.dropout import Dropout, DropsInputs
from veneer.adapters.layers.kept_norm import KeptNorm
from veneer.adapters.layers.linear import LoraLinear
from veneer.adapters.module import copy_tensors
from veneer.native.arguments import kernels_accept
from veneer.native.functions import Kernels
from veneer.native.library import kernels
from veneer.native.stored import HoldsStored, StoredLinear
from veneer.products import BaseLinear


class _ScaledFeatures(torch.autograd.Function):
    """z · g with `g` `[dim]` in float32, rounded once to the dtype of `z`."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, g: Tensor) -> Tensor:
        ctx.save_for_backward(z, g)
        native = _kernels(z, g)
        return (z * g).to(z.dtype) if native is None else native.rowwise.scale_columns_forward(z, g)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        z, g = ctx.saved_tensors
        native = _kernels(z, g, grads[0])
        if native is not None:
            return native.rowwise.scale_columns_backward(z, g, grads[0])
        wide = torch.promote_types(z.dtype, g.dtype)
        return (grads[0] * g).to(z.dtype), (grads[0].to(wide) * z).sum(0, dtype=wide).to(g.dtype)


def _kernels(z: Tensor, g: Tensor, *others: Tensor) -> Kernels | None:
    """The compiled kernels, if they accept rows `z`, others like them, and factors `g` of their columns."""
    accepted = z.dim() == 2 and kernels_accept(z, *others) and g.dtype is torch.float32 and kernels_accept(g)
    return kernels() if accepted else None


def scaled(z: Tensor, g: Tensor) -> Tensor:
    """`z` `[tokens, dim]` times `g` `[dim]` float32, in the dtype of `z`."""
    return cast(Tensor, _ScaledFeatures.apply(z, g))


class DoraLinear(nn.Module, HoldsStored, DropsInputs):
    """A layer with a LoRA update and trained magnitudes of its weight's rows.

    Args:
        lora: the layer with its update. B has no bias: PEFT would count it into the norm of the weight.
        measured: whether the magnitudes start as the norms of the rows. A caller that loads them passes False and saves
            the time; until then they are uninitialised.
    """

    def __init__(self, lora: LoraLinear, *, measured: bool = True):
        super().__init__()
        self.in_features, self.out_features = lora.in_features, lora.out_features
        self.lora = lora
        empty = torch.empty(lora.out_features, dtype=torch.float32, device=lora.lora_B.device)
        self.magnitude = nn.Parameter(self.norm() if measured else empty)
        self._norm = KeptNorm()

    @property
    def base(self) -> BaseLinear:
        """The frozen layer."""
        return self.lora.base

    @property
    def bias(self) -> Tensor | None:
        """Bias of the base."""
        return self.lora.bias

    @property
    def enabled(self) -> bool:
        """Whether the update is applied."""
        return self.lora.enabled

    @enabled.setter
    def enabled(self, value: bool) -> None:
        self.lora.enabled = value

    @torch.no_grad()
    def norm(self) -> Tensor:
        """Norms of the rows of W + s B A, `[out_features]` float32."""
        a, b = (factor.float().contiguous() for factor in self.lora.pairs())
        native = kernels() if kernels_accept(a, b) else None
        stored = self.base.stored() if native is not None and isinstance(self.base, HoldsStored) else None
        if native is not None and stored is not None:
            return native.row_norms(stored.weight, a, b, self.lora.scale)
        return cast(Tensor, torch.linalg.vector_norm(self.lora.added_to(self.base.dequantize(torch.float32)), dim=1))

    def gain(self) -> Tensor:
        """m / ‖W + s B A‖, `[out_features]` float32."""
        return self.magnitude / self._norm.of((self.lora.lora_A, self.lora.lora_B), self.norm)

    def stored(self) -> StoredLinear | None:
        """See `HoldsStored`."""
        found = self.lora.stored()
        return found if found is None or not self.enabled else replace(found, gain=self.gain().detach())

    def forward(self, x: Tensor) -> Tensor:
        """Map `[*, in_features]` to `[*, out_features]`, in the dtype of `x`."""
        if not self.enabled:
            return self.lora.base(x)
        if x.dim() > 2:
            return self.forward(x.flatten(0, -2)).reshape(*x.shape[:-1], -1)
        return self.from_inputs(x, self.dropout(x) if self.training else x)

    @property
    def dropout(self) -> Dropout:
        """See `DropsInputs`."""
        return self.lora.dropout

    def from_inputs(self, x: Tensor, adapted: Tensor) -> Tensor:
        """See `DropsInputs`: W x + (g − 1) W x' + g s B A x' with x' `adapted`, as PEFT computes it."""
        gain = self.gain()
        bias = None if self.bias is None else self.bias.detach().to(x.dtype)
        z = self.lora.from_inputs(adapted, adapted)
        y = scaled(z if bias is None else z - bias, gain)
        if adapted is not x:
            y = y + (self.lora.base(x) - self.lora.base(adapted))
        return y if bias is None else y + bias

    def trained(self) -> dict[str, nn.Parameter]:
        """A, B and the magnitudes. See `AdapterModule.trained`."""
        return self.lora.trained() | {MAGNITUDE: self.magnitude}

    def tensors(self) -> dict[str, Tensor]:
        """A, B and the magnitudes. See `AdapterModule.tensors`."""
        return self.lora.tensors() | {MAGNITUDE: self.magnitude.detach()}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Copy in A, B and the magnitudes. See `AdapterModule.load`."""
        self.lora.load(tensors)
        copy_tensors({MAGNITUDE: self.magnitude.detach()}, tensors)

    def merge_into(self, tensors: dict[str, Tensor]) -> None:
        """Add the update and rescale the weight's rows. See `AdapterModule.merge_into`.

        The norm is always that of the weight in training, even if another weight is given.
        """
        self.lora.merge_into(tensors)
        gain = (self.magnitude.detach().double() / self.norm().double()).to(tensors["weight"].dtype)
        tensors["weight"] = tensors["weight"] * gain[:, None]
