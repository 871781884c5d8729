"""Attention layouts: which keys each new token may attend to.

The decoder works on a flat list of tokens `[tokens, …]` and leaves documents, rows and caches to an `Attention`:
`PackedAttention` for documents laid end to end (training, scoring), and the layouts of `veneer.model.cache` for
generation. No document ever attends to another, and there is no padding outside of this file.

Shapes: queries `[tokens, heads, head_dim]`, keys and values `[tokens, kv_heads, head_dim]`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from veneer.gpu.attention import flash_takes, packed_attention
from veneer.model.shape import PLAIN, AttentionSpec
from veneer.model.windowed import attention_by_document
from veneer.native.functions import MIN_DIM_MULTIPLE, Documents, Kernels, ScoreLimits, usable
from veneer.native.library import kernels


class TextLengths(Protocol):
    """The lengths of the texts of one forward pass."""

    def text_lengths(self) -> Tensor:
        """Length so far of the text that each token belongs to, int64 `[tokens]`."""
        ...


class Attention(TextLengths, Protocol):
    """How the tokens of one forward pass see each other."""

    def attend(
        self,
        layer: int,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        attention_spec: AttentionSpec = PLAIN,
        sinks: Tensor | None = None,
    ) -> Tensor:
        """Attend: the weighted values of the keys that each query may see, `[tokens, heads, head_dim]`.

        `sinks` `[heads]` are learned scores without a value.
        """
        ...


PADDING_WASTE = 1.2
"""A group of documents may be padded to at most this multiple of its real tokens."""


def similar_groups(lengths: Sequence[int], waste: float = PADDING_WASTE) -> list[list[int]]:
    """Partition documents into groups of similar length, longest first; indices into `lengths`.

    One call for a group costs less than one call for each document, as long as little of it is padding.
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

    Documents with a common beginning (one system prompt, one template) may share it. Its tokens are then stored once,
    at the front, and every document sees them before its own tokens. Under the causal mask a token's state depends on
    earlier tokens alone: the states of the shared tokens are those of every document, and their gradient is the sum
    over documents.

    The compiled kernel takes the packed sequence as it is. Where it does not run, documents of similar length are
    gathered into one padded batch `[documents, heads, longest, head_dim]` for torch's fused kernel. Under the causal
    mask the padding stands behind every real token, so that none can see it: no mask tensor is needed, and the result
    is that of one call for each document.

    Args:
        lengths: number of tokens of each document, without the shared ones.
        shared: number of tokens at the front that begin every document.
    """

    def __init__(self, lengths: Sequence[int], shared: int = 0):
        self._documents = Documents((shared, *lengths) if shared else tuple(lengths), shared)
        self._tokens = sum(self._documents.lengths)
        self._longest = shared + max(lengths, default=0)

    def text_lengths(self) -> Tensor:
        """See `Attention.text_lengths`. The text of a shared token is the shared beginning."""
        own, shared = self._documents.lengths, self._documents.shared
        texts = [shared, *(shared + length for length in own[1:])] if shared else list(own)
        return torch.repeat_interleave(torch.tensor(texts), torch.tensor(own))

    def attend(
        self,
        layer: int,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        attention_spec: AttentionSpec = PLAIN,
        sinks: Tensor | None = None,
    ) -> Tensor:
        """Attend within documents; see `Attention.attend`."""
        if self._tokens != len(queries) or len(queries) != len(keys) or keys.shape != values.shape:
            # The kernel reads memory by these lengths, so a mistake must not reach it.
            raise ValueError(
                f"documents of {self._tokens} tokens in all, but queries {list(queries.shape)}, "
                f"keys {list(keys.shape)}, values {list(values.shape)}"
            )
        lengths, shared = self._documents.lengths, self._documents.shared
        scale = attention_spec.of(queries.shape[-1])
        window = attention_spec.window_within(self._longest)
        if kernels() is not None and usable(queries, keys, values) and queries.shape[-1] % MIN_DIM_MULTIPLE == 0:
            result: Tensor = _PackedKernel.apply(  # type: ignore[no-untyped-call]
                queries, keys, values, sinks, self._documents, scale, window, attention_spec.softcap
            )
            return result
        plain = sinks is None and attention_spec.softcap is None
        if queries.is_cuda and plain and (window is None or flash_takes(queries)):
            return packed_attention(queries, keys, values, lengths, scale, shared=shared, window=window)
        if not plain or window is not None:
            return attention_by_document(queries, keys, values, lengths, shared, attention_spec, sinks)
        return self.attend_padded(queries, keys, values, scale)

    def attend_padded(self, queries: Tensor, keys: Tensor, values: Tensor, scale: float | None = None) -> Tensor:
        """`attend` in torch's own operations, for every device. Shared tokens are computed again with each document."""
        pieces, places = [], []
        for rows, real in self._groups:
            rows, real = rows.to(queries.device), real.to(queries.device)
            q, k, v = (x[rows].transpose(1, 2) for x in (queries, keys, values))
            pieces.append(causal_attention(q, k, v, scale).transpose(1, 2)[real])
            places.append(rows[real])
        return torch.empty_like(queries).index_copy(0, torch.cat(places), torch.cat(pieces))

    @cached_property
    def _groups(self) -> list[tuple[Tensor, Tensor]]:
        """For each padded batch: token indices and whether their results are wanted, both `[documents, longest]`."""
        shared, starts, rows_of = self._documents.shared, 0, []
        for number, length in enumerate(self._documents.lengths):
            own = torch.arange(starts, starts + length)
            rows_of.append(torch.cat((torch.arange(shared), own)) if number and shared else own)
            starts += length
        groups = []
        for group in similar_groups([len(rows) for rows in rows_of]):
            longest = len(rows_of[group[0]])
            # Padding reads token 0 of the sequence; `real` drops what it computes.
            rows = torch.stack([functional.pad(rows_of[i], (0, longest - len(rows_of[i]))) for i in group])
            real = torch.zeros(rows.shape, dtype=torch.bool)
            for row, number in enumerate(group):
                real[row, shared if number else 0 : len(rows_of[number])] = True
            groups.append((rows, real))
        return groups


class _PackedKernel(torch.autograd.Function):
    """Attention by the compiled kernel. Backward needs its inputs, its output and one number for each row."""

    @staticmethod
    def forward(
        ctx: Any,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        sinks: Tensor | None,
        documents: Documents,
        scale: float,
        window: int | None,
        softcap: float | None,
    ) -> Tensor:
        limits = ScoreLimits(window, softcap, None if sinks is None else sinks.detach().float().contiguous())
        output, lse = _kernels().attention_forward(queries, keys, values, documents, scale, limits)
        ctx.save_for_backward(queries, keys, values, sinks, output, lse)
        ctx.documents, ctx.scale, ctx.limits = documents, scale, limits
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        queries, keys, values, sinks, output, lse = ctx.saved_tensors
        grad = grads[0].contiguous()
        found = _kernels().attention_backward(
            queries, keys, values, ctx.documents, ctx.scale, output, lse, grad, ctx.limits
        )
        grad_sinks = None
        if ctx.needs_input_grad[3]:
            # Its share of a row, exp(sink − lse), is taken from the other keys' values, and has none of its own.
            lost = torch.exp(ctx.limits.sinks - lse) * (grad.float() * output.float()).sum(-1)
            grad_sinks = -lost.sum(0).to(sinks.dtype)
        return (*found, grad_sinks, None, None, None, None)


def _kernels() -> Kernels:
    native = kernels()
    assert native is not None
    return native


def causal_attention(queries: Tensor, keys: Tensor, values: Tensor, scale: float | None = None) -> Tensor:
    """softmax(scale · q kᵀ) v under the causal mask, all `[batch, heads, length, head_dim]`.

    There may be fewer key/value heads than query heads. The scale is 1/√head_dim unless another is given.
    """
    return functional.scaled_dot_product_attention(
        queries, keys, values, is_causal=True, scale=scale, enable_gqa=queries.shape[1] != keys.shape[1]
    )
