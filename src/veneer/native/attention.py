"""The arguments of the attention kernels: how the tokens are cut into documents, and what limits their scores."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

from torch import Tensor

from veneer.native.arguments import DTYPE_NUMBERS, pointer

MIN_DIM_MULTIPLE = 16
"""Head dimensions must be a multiple of the widest vector."""


@dataclass(frozen=True, slots=True)
class Documents:
    """How a pack of tokens is cut into documents."""

    lengths: tuple[int, ...]
    """The number of tokens of each document; the documents are packed end to end."""
    shared: int = 0
    """If above 0, document 0 has this many tokens, and all others see it as their common beginning."""


@dataclass(frozen=True, slots=True)
class ScoreLimits:
    """What a layer's attention does to its scores beyond the causal mask."""

    window: int | None = None
    """The number of keys that a query sees, its own included."""
    softcap: float | None = None
    """The bound c of the scores: a score s becomes c · tanh(s / c)."""
    sinks: Tensor | None = None
    """Learned scores that have no value to mix in, float32 `[heads]`."""


def refuse_other_lengths(tokens: int, queries: Tensor, keys: Tensor, values: Tensor) -> None:
    """Refuse tensors of another number of tokens: kernels read memory by it, so that a mistake must not reach them."""
    if tokens != len(queries) or len(queries) != len(keys) or keys.shape != values.shape:
        raise ValueError(
            f"documents of {tokens} tokens in all, but queries {list(queries.shape)}, "
            f"keys {list(keys.shape)}, values {list(values.shape)}"
        )


def attention_arguments(
    queries: Tensor, keys: Tensor, values: Tensor, documents: Documents, scale: float, limits: ScoreLimits | None
) -> list[object]:
    """The first arguments of the attention functions, forward and backward; attention.c has the shapes."""
    limits = limits or ScoreLimits()
    lengths = documents.lengths
    starts = [0]
    for length in lengths[:-1]:
        starts.append(starts[-1] + length)
    return [
        DTYPE_NUMBERS[queries.dtype],
        *(pointer(tensor) for tensor in (queries, keys, values)),
        (ctypes.c_int32 * len(lengths))(*lengths),
        (ctypes.c_int64 * len(lengths))(*starts),
        len(lengths),
        documents.shared,
        queries.shape[1],
        keys.shape[1],
        queries.shape[2],
        ctypes.c_float(scale),
        limits.window or 0,
        ctypes.c_float(limits.softcap or 0.0),
        pointer(limits.sinks),
    ]
