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

from veneer.gpu.attention import packed_attention
from veneer.model.shape import PLAIN, Mixing
from veneer.model.windowed import mixed_by_document
from veneer.native.library import MIN_DIM_MULTIPLE, Documents, Kernels, kernels, usable


class Attention(Protocol):
    """How the tokens of one forward pass see each other."""

    def attend(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor, mixing: Mixing = PLAIN) -> Tensor:
        """Mix the values that each query may see, `[tokens, heads, head_dim]`."""
        ...

    def text_lengths(self) -> Tensor:
        """How many tokens the text has that each token is in, as far as it is known by now, int64 `[tokens]`."""
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

    Documents that begin alike (one system prompt, one template) may share that beginning: its tokens then stand once,
    at the front, and every document sees them before its own. Under the causal mask what a token holds depends on
    earlier tokens alone, so the shared ones are the same for all, and the gradient that reaches them is the sum over
    documents.

    The compiled kernel takes the pack as it is. Where it does not run, documents of similar length are gathered into
    one padded batch `[documents, heads, longest, head_dim]` for torch's fused kernel. Under the causal mask the
    padding stands behind every real token, so that none can see it: no mask tensor is needed and the result is that
    of one call a document.

    Args:
        lengths: tokens of each document, without the shared ones.
        shared: tokens at the front that begin every document.
    """

    def __init__(self, lengths: Sequence[int], shared: int = 0):
        self._documents = Documents((shared, *lengths) if shared else tuple(lengths), shared)
        self._tokens = sum(self._documents.lengths)
        self._longest = shared + max(lengths, default=0)

    def text_lengths(self) -> Tensor:
        """See `Attention.text_lengths`; of shared tokens, the number of them."""
        own, shared = self._documents.lengths, self._documents.shared
        texts = [shared, *(shared + length for length in own[1:])] if shared else list(own)
        return torch.repeat_interleave(torch.tensor(texts), torch.tensor(own))

    def attend(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor, mixing: Mixing = PLAIN) -> Tensor:
        """Attend within documents; see `Attention.attend`."""
        if self._tokens != len(queries) or len(queries) != len(keys) or keys.shape != values.shape:
            # The kernel reads by these lengths, so a mistake here must not reach it.
            raise ValueError(
                f"documents of {self._tokens} tokens in all, but queries {list(queries.shape)}, "
                f"keys {list(keys.shape)}, values {list(values.shape)}"
            )
        scale, (lengths, shared) = mixing.of(queries.shape[-1]), (self._documents.lengths, self._documents.shared)
        if mixing.softcap is not None or (mixing.window is not None and mixing.window < self._longest):
            return mixed_by_document(queries, keys, values, lengths, shared, mixing)
        if queries.is_cuda:
            return packed_attention(queries, keys, values, lengths, scale, shared=shared)
        if kernels() is not None and usable(queries, keys, values) and queries.shape[-1] % MIN_DIM_MULTIPLE == 0:
            result: Tensor = _PackedKernel.apply(queries, keys, values, self._documents, scale)  # type: ignore[no-untyped-call]
            return result
        return self.attend_padded(queries, keys, values, scale)

    def attend_padded(self, queries: Tensor, keys: Tensor, values: Tensor, scale: float | None = None) -> Tensor:
        """The same in torch's own operations, on every device; shared tokens are computed with every document."""
        pieces, places = [], []
        for rows, real in self._groups:
            rows, real = rows.to(queries.device), real.to(queries.device)
            q, k, v = (x[rows].transpose(1, 2) for x in (queries, keys, values))
            pieces.append(causal_attention(q, k, v, scale).transpose(1, 2)[real])
            places.append(rows[real])
        return torch.empty_like(queries).index_copy(0, torch.cat(places), torch.cat(pieces))

    @cached_property
    def _groups(self) -> list[tuple[Tensor, Tensor]]:
        """For each group the tokens of its padded batch, and whose results are wanted, `[documents, longest]` both."""
        shared, starts, rows_of = self._documents.shared, 0, []
        for number, length in enumerate(self._documents.lengths):
            own = torch.arange(starts, starts + length)
            rows_of.append(torch.cat((torch.arange(shared), own)) if number and shared else own)
            starts += length
        groups = []
        for group in similar_groups([len(rows) for rows in rows_of]):
            longest = len(rows_of[group[0]])
            # Padding reads token 0 of the pack; what it computes is dropped by `real`.
            rows = torch.stack([functional.pad(rows_of[i], (0, longest - len(rows_of[i]))) for i in group])
            real = torch.zeros(rows.shape, dtype=torch.bool)
            for line, number in enumerate(group):
                real[line, shared if number else 0 : len(rows_of[number])] = True
            groups.append((rows, real))
        return groups


class _PackedKernel(torch.autograd.Function):
    """The compiled kernel; keeps its inputs, its output and one number a row."""

    @staticmethod
    def forward(ctx: Any, queries: Tensor, keys: Tensor, values: Tensor, documents: Documents, scale: float) -> Tensor:
        output, lse = _kernels().attention_forward(queries, keys, values, documents, scale)
        ctx.save_for_backward(queries, keys, values, output, lse)
        ctx.documents, ctx.scale = documents, scale
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        queries, keys, values, output, lse = ctx.saved_tensors
        found = _kernels().attention_backward(
            queries, keys, values, ctx.documents, ctx.scale, output, lse, grads[0].contiguous()
        )
        return (*found, None, None)


def _kernels() -> Kernels:
    native = kernels()
    assert native is not None
    return native


def causal_attention(queries: Tensor, keys: Tensor, values: Tensor, scale: float | None = None) -> Tensor:
    """softmax(scale · q kᵀ) v under the causal mask; all `[batch, heads, length, head_dim]`, kv heads may be fewer;
    the scale is 1/√d unless another is given."""
    return functional.scaled_dot_product_attention(
        queries, keys, values, is_causal=True, scale=scale, enable_gqa=queries.shape[1] != keys.shape[1]
    )
