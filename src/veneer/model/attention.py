"""Attention layouts: which keys each new token may look at.

The decoder works on a flat list of tokens `[tokens, …]` and leaves documents, rows and caches to an `Attention`:
`PackedAttention` for whole documents laid end to end (training, scoring), and the cached layouts of
`veneer.model.cache` for generation. No document ever attends to another, and no token is padding outside this file.

Shapes: queries `[tokens, heads, head_dim]`, keys and values `[tokens, kv_heads, head_dim]`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from veneer.native.library import MIN_DIM_MULTIPLE, Kernels, kernels, usable


class Attention(Protocol):
    """How the tokens of one forward pass see each other."""

    def attend(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Mix the values that each query may see, `[tokens, heads, head_dim]`."""
        ...


PADDING_WASTE = 1.2
"""A group of documents may be padded to at most this multiple of its real tokens."""


def similar_groups(lengths: Sequence[int], waste: float = PADDING_WASTE) -> list[list[int]]:
    """Partition documents into groups of similar length, longest first; indices into `lengths`.

    One call for a group costs less than one a document, as long as little of it is padding.
    """
    groups: list[list[int]] = []
    tokens = 0
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        longest = lengths[groups[-1][0]] if groups else 0
        if groups and longest * (len(groups[-1]) + 1) <= waste * (tokens + lengths[index]):
            groups[-1].append(index)
            tokens += lengths[index]
        else:
            groups.append([index])
            tokens = lengths[index]
    return groups


class PackedAttention:
    """Causal attention within each document of a packed sequence.

    The compiled kernel takes the pack as it is. Where it does not run, documents of similar length are gathered into
    one padded batch `[documents, heads, longest, head_dim]` for torch's fused kernel. Under the causal mask the
    padding stands behind every real token, so that none can see it: no mask tensor is needed and the result is that
    of one call a document.
    """

    def __init__(self, lengths: Sequence[int]):
        self.lengths = tuple(lengths)

    def attend(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Attend within documents; see `Attention.attend`."""
        if sum(self.lengths) != len(queries) or len(queries) != len(keys) or keys.shape != values.shape:
            # The kernel reads by these lengths, so a mistake here must not reach it.
            raise ValueError(
                f"documents of {sum(self.lengths)} tokens in all, but queries {list(queries.shape)}, "
                f"keys {list(keys.shape)}, values {list(values.shape)}"
            )
        if kernels() is not None and usable(queries, keys, values) and queries.shape[-1] % MIN_DIM_MULTIPLE == 0:
            result: Tensor = _PackedKernel.apply(queries, keys, values, self.lengths)  # type: ignore[no-untyped-call]
            return result
        return self.attend_padded(queries, keys, values)

    def attend_padded(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """The same in torch's own operations, on every device."""
        pieces, places = [], []
        for rows, real in self._groups:
            rows, real = rows.to(queries.device), real.to(queries.device)
            batch = [x[rows].transpose(1, 2) for x in (queries, keys, values)]
            pieces.append(causal_attention(*batch).transpose(1, 2)[real])
            places.append(rows[real])
        return torch.empty_like(queries).index_copy(0, torch.cat(places), torch.cat(pieces))

    @cached_property
    def _groups(self) -> list[tuple[Tensor, Tensor]]:
        """For each group the tokens of its padded batch, and which of them are real, `[documents, longest]` both."""
        starts = [0]
        for length in self.lengths:
            starts.append(starts[-1] + length)
        groups = []
        for group in similar_groups(self.lengths):
            offsets = torch.arange(self.lengths[group[0]])
            rows = torch.tensor([starts[i] for i in group])[:, None] + offsets[None, :]
            real = offsets[None, :] < torch.tensor([self.lengths[i] for i in group])[:, None]
            # Padding reads some token of the pack (clamped to its end); what it computes is dropped by `real`.
            groups.append((rows.clamp(max=starts[-1] - 1), real))
        return groups


class _PackedKernel(torch.autograd.Function):
    """The compiled kernel; keeps its inputs, its output and one number a row."""

    @staticmethod
    def forward(ctx: Any, queries: Tensor, keys: Tensor, values: Tensor, lengths: tuple[int, ...]) -> Tensor:
        scale = queries.shape[-1] ** -0.5
        output, lse = _kernels().attention_forward(queries, keys, values, lengths, scale)
        ctx.save_for_backward(queries, keys, values, output, lse)
        ctx.lengths, ctx.scale = lengths, scale
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        queries, keys, values, output, lse = ctx.saved_tensors
        found = _kernels().attention_backward(
            queries, keys, values, ctx.lengths, ctx.scale, output, lse, grads[0].contiguous()
        )
        return (*found, None)


def _kernels() -> Kernels:
    native = kernels()
    assert native is not None
    return native


def causal_attention(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """softmax(q kᵀ / √d) v under the causal mask; all `[batch, heads, length, head_dim]`, kv heads may be fewer."""
    return functional.scaled_dot_product_attention(
        queries, keys, values, is_causal=True, enable_gqa=queries.shape[1] != keys.shape[1]
    )
