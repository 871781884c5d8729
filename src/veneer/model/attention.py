"""Attention layouts: which keys each new token may attend to.

The decoder works on a flat list of tokens `[tokens, …]` and leaves documents, rows and caches to an `Attention`:
`PackedAttention` for documents packed end to end (training, scoring), and the layouts of `veneer.model.cache` for
generation. No document ever attends to another, and there is no padding outside of this file.

Shapes: queries `[tokens, heads, head_dim]`, keys and values `[tokens, kv_heads, head_dim]`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from veneer.gpu.attention import flash_takes, packed_attention
from veneer.model.shape import AttentionSpec
from veneer.model.windowed import attention_by_document
from veneer.native.arguments import kernels_accept
from veneer.native.attention import MIN_DIM_MULTIPLE, Documents, ScoreLimits, refuse_other_lengths
from veneer.native.functions import Kernels
from veneer.native.library import kernels


class TextLengths(Protocol):
    """The lengths of the texts of one forward pass."""

    def text_lengths(self) -> Tensor:
        """Length so far of the text that each token belongs to, int64 `[tokens]`."""
        ...


class Attention(TextLengths, Protocol):
    """How the tokens of one forward pass see each other."""

    def attend(
        self, layer: int, queries: Tensor, keys: Tensor, values: Tensor, spec: AttentionSpec, sinks: Tensor | None
    ) -> Tensor:
        """Attend: the weighted values of the keys that each query may see, `[tokens, heads, head_dim]`.

        `sinks` `[heads]` are learned scores without a value.
        """
        ...


PADDING_WASTE = 1.2
"""A group of documents may be padded to at most this multiple of its real tokens."""


def similar_groups(lengths: Sequence[int]) -> list[list[int]]:
    """Partition documents into groups of similar length, longest first; the groups are indices into `lengths`.

    One call for a group costs less than one call for each document, as long as there is little padding.
    """
    groups: list[list[int]] = []
    tokens = 0
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        longest = lengths[groups[-1][0]] if groups else 0
        if groups and longest * (len(groups[-1]) + 1) <= PADDING_WASTE * (tokens + lengths[index]):
            groups[-1].append(index)
            tokens += lengths[index]
        else:
            groups.append([index])
            tokens = lengths[index]
    return groups


class PackedAttention:
    """Causal attention within each document of a packed sequence.

    Documents with a common beginning (one system prompt, one template) may share it. Its tokens are then stored once,
    at the front, and every document sees them before its own tokens. Under the causal mask a token's state depends only
    on earlier tokens: the states of the shared tokens are those of every document, and their gradient is the sum over
    documents.

    The compiled kernel reads the packed sequence as it is. If it does not run, documents of similar length are gathered
    into one padded batch `[documents, heads, longest, head_dim]` for torch's fused kernel. The padding comes after
    every real token, so that no token sees it under the causal mask: no mask tensor is needed, and the result is that
    of one call for each document.

    Args:
        lengths: number of tokens of each document, without the shared ones.
        shared: number of tokens at the front with which every document begins.
    """

    def __init__(self, lengths: Sequence[int], shared: int = 0):
        self._documents = Documents((shared, *lengths) if shared else tuple(lengths), shared)
        self._tokens = sum(self._documents.lengths)
        self._longest = shared + max(lengths, default=0)

    def text_lengths(self) -> Tensor:
        """See `TextLengths.text_lengths`. The text of a shared token is the shared beginning."""
        own, shared = self._documents.lengths, self._documents.shared
        texts = [shared, *(shared + length for length in own[1:])] if shared else list(own)
        return torch.repeat_interleave(torch.tensor(texts), torch.tensor(own))

    def attend(
        self, layer: int, queries: Tensor, keys: Tensor, values: Tensor, spec: AttentionSpec, sinks: Tensor | None
    ) -> Tensor:
        """Attend within documents; see `Attention.attend`."""
        refuse_other_lengths(self._tokens, queries, keys, values)
        if by_compiled_kernel(queries, keys, values):
            return attend_compiled([self], queries, keys, values, spec, sinks)
        lengths, shared = self._documents.lengths, self._documents.shared
        scale = spec.of(queries.shape[-1])
        window = spec.window_within(self._longest)
        plain = sinks is None and spec.softcap is None
        if queries.is_cuda and plain and (window is None or flash_takes(queries)):
            return packed_attention(queries, keys, values, lengths, scale, shared=shared, window=window)
        if not plain or window is not None:
            return attention_by_document(queries, keys, values, lengths, shared, spec, sinks)
        return self.attend_padded(queries, keys, values, scale)

    def block(self, spec: AttentionSpec) -> KernelBlock:
        """The documents in the form that the compiled kernel needs."""
        return KernelBlock(self._documents, self._tokens, spec.window_within(self._longest))

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
        shared, start, rows_of = self._documents.shared, 0, []
        for number, length in enumerate(self._documents.lengths):
            own = torch.arange(start, start + length)
            rows_of.append(torch.cat((torch.arange(shared), own)) if number and shared else own)
            start += length
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


@dataclass(frozen=True, slots=True)
class KernelBlock:
    """Documents that the compiled kernel computes in one call."""

    documents: Documents
    tokens: int
    """Number of tokens of all documents."""
    window: int | None
    """The largest number of keys that a query sees; None if it sees all earlier ones."""


def by_compiled_kernel(queries: Tensor, keys: Tensor, values: Tensor) -> bool:
    """Whether the compiled kernel computes their attention."""
    return kernels() is not None and kernels_accept(queries, keys, values) and queries.shape[-1] % MIN_DIM_MULTIPLE == 0


def attend_compiled(
    layouts: Sequence[PackedAttention],
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    spec: AttentionSpec,
    sinks: Tensor | None,
) -> Tensor:
    """Attend within blocks that are packed end to end, by the compiled kernel: one tensor holds the results of all
    blocks.

    Args:
        layouts: the documents of each block; their tokens are those of `queries`.
        queries, keys, values, spec, sinks: see `Attention.attend`.
    """
    blocks = tuple(layout.block(spec) for layout in layouts)
    refuse_other_lengths(sum(block.tokens for block in blocks), queries, keys, values)
    scale, softcap = spec.of(queries.shape[-1]), spec.softcap
    result: Tensor = _PackedKernel.apply(queries, keys, values, sinks, blocks, scale, softcap)
    return result


class _PackedKernel(torch.autograd.Function):
    """Attention by the compiled kernel. Backward needs its inputs, its output and one number for each row."""

    @staticmethod
    def forward(
        ctx: Any,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        sinks: Tensor | None,
        blocks: Sequence[KernelBlock],
        scale: float,
        softcap: float | None,
    ) -> Tensor:
        limits = ScoreLimits(None, softcap, None if sinks is None else sinks.detach().float().contiguous())
        # One output for all blocks: the next layer keeps it whole, and so it is not kept twice.
        output, lse = torch.empty_like(queries), torch.empty(queries.shape[:2], dtype=torch.float32)
        for block, (q, k, v, out, sums) in _parts(blocks, queries, keys, values, output, lse):
            own = replace(limits, window=block.window)
            _kernels().attention_forward(q, k, v, block.documents, scale, own, (out, sums))
        ctx.save_for_backward(queries, keys, values, sinks, output, lse)
        ctx.blocks, ctx.scale, ctx.limits = blocks, scale, limits
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        queries, keys, values, sinks, output, lse = ctx.saved_tensors
        grad = grads[0].contiguous()
        gradients = torch.empty_like(queries), torch.empty_like(keys), torch.empty_like(values)
        for block, (q, k, v, out, sums, g, dq, dk, dv) in _parts(
            ctx.blocks, queries, keys, values, output, lse, grad, *gradients
        ):
            own = replace(ctx.limits, window=block.window)
            _kernels().attention_backward(q, k, v, block.documents, ctx.scale, out, sums, g, own, (dq, dk, dv))
        grad_sinks = None
        if ctx.needs_input_grad[3]:
            # Its share of a row, exp(sink − lse), is taken from the other keys' values, and has none of its own.
            lost = torch.exp(ctx.limits.sinks - lse) * (grad.float() * output.float()).sum(-1)
            grad_sinks = -lost.sum(0).to(sinks.dtype)
        return (*gradients, grad_sinks, None, None, None)


def _parts(blocks: Sequence[KernelBlock], *tensors: Tensor) -> Iterator[tuple[KernelBlock, list[Tensor]]]:
    """Each block that has tokens, with its rows of tensors."""
    start = 0
    for block in filter(lambda block: block.tokens, blocks):
        yield block, [tensor[start : start + block.tokens] for tensor in tensors]
        start += block.tokens


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
