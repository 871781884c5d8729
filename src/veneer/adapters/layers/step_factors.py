"""The factors of an adapter as the compiled step reads them."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from veneer.adapters.adapter import Adapter
from veneer.adapters.layers.dora import DoraLinear
from veneer.adapters.layers.linear import LoraLinear
from veneer.machine.large_pages import room_for
from veneer.native.factors import LayerFactors, fits_tiles, in_pairs

CACHE_LINE_NUMBERS = 32
"""Numbers of a line of the processor's cache in two bytes each; every factor begins with a line."""


def step_factors(
    adapter: Adapter, paths: frozenset[str], dtype: torch.dtype, *, tiles: bool = False
) -> dict[str, LayerFactors] | None:
    """The factors of an adapter for the compiled step, by the paths of the layers.

    All of them are in one piece of memory, in the order of the adapter's modules. A step reads every factor once, so
    that its time is that of reading memory; with separate small pages, address look-ups would take an eighth more.

    Args:
        adapter: an adapter on a view or a model.
        paths: the paths of the layers that the step can update.
        dtype: float32 or bfloat16; the factors are rounded to it.
        tiles: whether the step multiplies in AMX's tiles; factors in bfloat16 that have whole tiles are then stored so.

    Returns:
        The factors, or None if the adapter is more than LoRA or DoRA updates of such layers.
    """
    updates: dict[str, LoraLinear] = {}
    gains: dict[str, Tensor] = {}
    for path, module in adapter.modules:
        if path not in paths:
            return None
        if type(module) is LoraLinear:
            updates[path] = module
        elif type(module) is DoraLinear:
            updates[path] = module.lora
            gains[path] = module.gain().detach()
        else:
            return None
    layers = [_stored(*update.pairs(), dtype, tiles=tiles) for update in updates.values()]
    placed = _side_by_side([factor for pair in layers for factor in pair], dtype)
    gains = dict(zip(gains, _side_by_side(list(gains.values()), torch.float32), strict=True))
    return {
        path: LayerFactors(
            down=next(placed), up=next(placed), scale=update.scale, bias=_bias(update, gains.get(path)),
            gain=gains.get(path),
        )
        for path, update in updates.items()
    }  # fmt: skip


def _stored(a: Tensor, b: Tensor, dtype: torch.dtype, *, tiles: bool) -> tuple[Tensor, Tensor]:
    """A `[rank, in]` and B `[out, rank]` in the order in which the step reads them in this dtype."""
    down, up = a.detach(), b.detach().t()
    if dtype != torch.bfloat16:
        return down, up
    whole = tiles and fits_tiles(len(down), up.shape[1], down.shape[1])
    return in_pairs(down.t()) if whole else down, in_pairs(up)


def _side_by_side(tensors: list[Tensor], dtype: torch.dtype) -> Iterator[Tensor]:
    """Copies in `dtype`, each contiguous, one after the other in memory."""
    sizes = [-(-tensor.numel() // CACHE_LINE_NUMBERS) * CACHE_LINE_NUMBERS for tensor in tensors]
    room = room_for([sum(sizes)], dtype)
    for tensor, piece in zip(tensors, torch.split(room, sizes), strict=True):
        yield piece[: tensor.numel()].view(tensor.shape).copy_(tensor)


def _bias(update: LoraLinear, gain: Tensor | None) -> Tensor | None:
    """What is added after the gain. The step has added the base's own bias before the gain, but DoRA does not scale
    it."""
    if gain is not None:
        return None if update.bias is None else (1 - gain) * update.bias.detach().float()
    return None if update.lora_B_bias is None else update.scale * update.lora_B_bias.detach().float()
