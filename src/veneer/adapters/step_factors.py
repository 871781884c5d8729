"""The factors of an adapter as the compiled step reads them."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from veneer.adapters.adapter import Adapter
from veneer.adapters.linear import LoraLinear
from veneer.large_pages import room_for
from veneer.native.factors import LayerFactors, StepFactors, rank_pairs

LINE = 32
"""Numbers of a line of the processor's cache in two bytes each; every factor begins with a line."""


def step_factors(adapter: Adapter, sites: frozenset[str], dtype: torch.dtype) -> StepFactors | None:
    """The factors of an adapter for the compiled step.

    All of them stand in one piece of memory, in the order of the adapter's modules. A step reads every factor once, so
    that it takes as long as the memory does, and looking up small pages of their own would take an eighth more.

    Args:
        adapter: on a view or a model.
        sites: paths of the layers that the step can update.
        dtype: float32 or bfloat16, which the factors are rounded to.

    Returns:
        None where the adapter is more than low-rank updates of such layers.
    """
    modules: dict[str, LoraLinear] = {}
    for path, module in adapter.modules:
        if type(module) is not LoraLinear or path not in sites:
            return None
        modules[path] = module
    pairs = [(a.detach(), _up(b.detach(), dtype)) for a, b in (module.pairs() for module in modules.values())]
    placed = _side_by_side([factor for pair in pairs for factor in pair], dtype)
    return StepFactors(
        layers={
            path: LayerFactors(down=next(placed), up=next(placed), scale=module.scale, bias=_bias(module))
            for path, module in modules.items()
        }
    )


def _side_by_side(tensors: list[Tensor], dtype: torch.dtype) -> Iterator[Tensor]:
    """Copies in `dtype`, each contiguous, one behind the other in memory."""
    sizes = [-(-tensor.numel() // LINE) * LINE for tensor in tensors]
    room = room_for([sum(sizes)], dtype)
    for tensor, piece in zip(tensors, torch.split(room, sizes), strict=True):
        yield piece[: tensor.numel()].view(tensor.shape).copy_(tensor)


def _up(b: Tensor, dtype: torch.dtype) -> Tensor:
    """Bᵀ as the step reads it in this dtype."""
    return rank_pairs(b.t()) if dtype == torch.bfloat16 else b.t()


def _bias(module: LoraLinear) -> Tensor | None:
    return None if module.lora_B_bias is None else module.scale * module.lora_B_bias.detach().float()
