"""Causal attention within documents of a packed sequence on CUDA, by torch's own kernels.

torch has FlashAttention for packs (`torch.nn.attention.varlen`) since 2.10, and its signature has grown since: 2.10
takes `is_causal` and neither a scale nor fewer key heads, 2.11 takes a window and a scale, 2.12 also grouped queries.
Which one is installed is looked up once. What it cannot do (float32, old cards, heads wider than 256) goes to
`scaled_dot_product_attention`, one document a call.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

MIN_CAPABILITY = (8, 0)
"""FlashAttention 2 needs Ampere."""

MAX_HEAD_DIM = 256
"""The widest head that FlashAttention 2 takes; it must be a multiple of 8."""


class Varlen:
    """torch's attention over packs, whatever parameters this release gives it."""

    def __init__(self, function: Callable[..., Any]):
        self._function = function
        parameters = inspect.signature(function).parameters
        self._has_window = "window_size" in parameters
        self._has_scale = "scale" in parameters
        self._has_groups = "enable_gqa" in parameters

    def __call__(
        self,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        borders: tuple[Tensor, Tensor],
        longest: tuple[int, int],
        scale: float,
    ) -> Tensor:
        """Causal attention; the last query of a document sees all of its keys, be they more than its queries.

        Args:
            queries: `[tokens, heads, head_dim]`.
            keys, values: `[key tokens, kv_heads, head_dim]`.
            borders: int32 `[documents + 1]`, where documents begin and end, among the queries and among the keys.
            longest: tokens of the longest document, among the queries and among the keys.
            scale: of the scores.
        """
        settings: dict[str, object] = {"window_size": (-1, 0)} if self._has_window else {"is_causal": True}
        if self._has_scale:
            settings["scale"] = scale
        else:
            # The kernel divides by √head_dim; usually that is the scale and the factor is 1.
            factor = scale * queries.shape[-1] ** 0.5
            queries = queries if abs(factor - 1.0) < 1e-6 else queries * factor
        if self._has_groups:
            settings["enable_gqa"] = queries.shape[1] != keys.shape[1]
        elif queries.shape[1] != keys.shape[1]:
            groups = queries.shape[1] // keys.shape[1]
            keys, values = keys.repeat_interleave(groups, 1), values.repeat_interleave(groups, 1)
        result: Tensor = self._function(queries, keys, values, *borders, *longest, **settings)
        return result


@lru_cache(maxsize=1)
def varlen() -> Varlen | None:
    """torch's attention over packs, or None where this release has none."""
    try:
        module = importlib.import_module("torch.nn.attention.varlen")
    except ImportError:
        return None
    return Varlen(module.varlen_attn)


@lru_cache(maxsize=8)
def _pack(lengths: tuple[int, ...], shared: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor | None]:
    """Borders among queries and among keys, int32, and which tokens the keys are, int64 (None: all, in order).

    Kept, because every layer of a model asks for the same ones and each would be a copy to the device.
    """
    ends = list(accumulate(lengths, initial=0))
    borders = torch.tensor(ends, dtype=torch.int32, device=device)
    if not shared:
        return borders, borders, None
    # Every document after the first is read with the shared beginning before it.
    key_lengths = [shared, *(shared + length for length in lengths[1:])]
    key_borders = torch.tensor(list(accumulate(key_lengths, initial=0)), dtype=torch.int32, device=device)
    start = torch.arange(shared)
    spans = [torch.cat((start, torch.arange(a, b))) for a, b in pairwise(ends[1:])]
    return borders, key_borders, torch.cat((start, *spans)).to(device)


def _flash_takes(queries: Tensor) -> bool:
    dim = queries.shape[-1]
    return (
        queries.is_cuda
        and queries.dtype in (torch.bfloat16, torch.float16)
        and dim % 8 == 0
        and dim <= MAX_HEAD_DIM
        and torch.version.hip is None
        and torch.cuda.get_device_capability(queries.device) >= MIN_CAPABILITY
    )


def packed_attention(
    queries: Tensor, keys: Tensor, values: Tensor, lengths: Sequence[int], scale: float, *, shared: int = 0
) -> Tensor:
    """Mix the values that each query may see, `[tokens, heads, head_dim]`; differentiable.

    Args:
        queries: `[tokens, heads, head_dim]`.
        keys, values: `[tokens, kv_heads, head_dim]`; `heads` is a multiple of `kv_heads`.
        lengths: tokens of each document, end to end.
        scale: of the scores, usually head_dim ** -0.5.
        shared: where above 0, document 0 has so many tokens and is the common beginning that all the others see.

    Raises:
        ValueError: the lengths do not fit the tensors; the kernel reads memory by them.
    """
    lengths = tuple(lengths)
    if sum(lengths) != len(queries) or len(queries) != len(keys) or keys.shape != values.shape:
        raise ValueError(
            f"documents of {sum(lengths)} tokens in all, but queries {list(queries.shape)}, "
            f"keys {list(keys.shape)}, values {list(values.shape)}"
        )
    if shared and lengths[0] != shared:
        raise ValueError(f"{shared} tokens are shared, but document 0 has {lengths[0]}")
    flash = varlen() if _flash_takes(queries) else None
    if flash is None:
        return attention_by_document(queries, keys, values, lengths, scale, shared=shared)
    borders, key_borders, rows = _pack(lengths, shared, queries.device)
    if rows is not None:
        keys, values = keys.index_select(0, rows), values.index_select(0, rows)
    longest = max(lengths)
    longest_keys = max((shared, *(shared + length for length in lengths[1:]))) if shared else longest
    return flash(queries, keys, values, (borders, key_borders), (longest, longest_keys), scale)


def attention_by_document(
    queries: Tensor, keys: Tensor, values: Tensor, lengths: Sequence[int], scale: float, *, shared: int = 0
) -> Tensor:
    """Packed attention by one call of `scaled_dot_product_attention` a document, on every device and in every dtype."""
    pieces, start = [], 0
    for number, length in enumerate(lengths):
        own = slice(start, start + length)
        before = shared if number else 0
        # The shared beginning is computed again with every document, and dropped: a square problem needs no mask
        # tensor, and torch has fused kernels for it.
        q, k, v = (
            (torch.cat((x[:before], x[own])) if before else x[own]).transpose(0, 1)[None]
            for x in (queries, keys, values)
        )
        mixed = functional.scaled_dot_product_attention(
            q, k, v, is_causal=True, scale=scale, enable_gqa=queries.shape[1] != keys.shape[1]
        )
        pieces.append(mixed[0].transpose(0, 1)[before:])
        start += length
    return torch.cat(pieces)
