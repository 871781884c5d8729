"""Attention within a window, or with capped scores, in torch's own operations.

The compiled kernel does the same on a CPU (native/attention.c). This module is for GPUs, for other dtypes and for
machines without the kernel. No fused kernel of torch caps scores, and a window as a mask tensor would need memory of
length². So each document is computed in blocks of query rows, each with the keys that it can see. Backward computes a
block's scores again, so that only queries, keys and values are kept between forward and backward.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from veneer.model.shape import AttentionSpec
from veneer.padding import pad_to_multiple

BLOCK_ROWS = 256
"""Number of query rows that are computed at a time. With 32 heads and 2,048 keys their float32 scores are 67 MB."""


def softcapped(scores: Tensor, softcap: float | None) -> Tensor:
    """c · tanh(s / c)  (Gemma 2, arXiv:2408.00118, section 2)."""
    return scores if softcap is None else torch.tanh(scores / softcap) * softcap


def softmax_beside(scores: Tensor, sinks: Tensor | None) -> Tensor:
    """Softmax of scores `[…, keys]` and a sink `[…, 1]`, whose own share is dropped (gpt-oss, arXiv:2508.10925)."""
    if sinks is None:
        return torch.softmax(scores, dim=-1)
    own = sinks.to(scores.dtype).expand(*scores.shape[:-1], 1)
    return torch.softmax(torch.cat((scores, own), dim=-1), dim=-1)[..., :-1]


def _block(
    queries: Tensor, keys: Tensor, values: Tensor, sinks: Tensor | None, before: int, attention_spec: AttentionSpec
) -> Tensor:
    """Attention of one block: queries `[rows, heads, dim]`, keys and values `[seen, kv_heads, dim]`.

    `before` is the number of keys before the first query's own. Both are padded with zero rows so that there are few
    different shapes (`veneer.padding`). Padded keys come after every query; the results of padded queries are dropped.
    """
    wanted = len(queries)
    queries, keys, values = (_filled(x) for x in (queries, keys, values))
    rows, heads, dim = queries.shape
    kv_heads = keys.shape[1]
    # The query heads of one key head are grouped: [kv_heads, groups · rows, dim] against [kv_heads, dim, seen].
    grouped = queries.view(rows, kv_heads, heads // kv_heads, dim).permute(1, 2, 0, 3).reshape(kv_heads, -1, dim)
    scores = torch.matmul(grouped, keys.permute(1, 2, 0))
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32)) * attention_spec.of(dim)
    scores = softcapped(scores, attention_spec.softcap).view(kv_heads, -1, rows, len(keys))
    # Padded queries get the position of the last real one: without a key to see they would be NaN.
    at = torch.arange(before, before + rows, device=queries.device).clamp_(max=before + wanted - 1)[:, None]
    column = torch.arange(len(keys), device=queries.device)[None, :]
    hidden = column > at
    if attention_spec.window is not None:
        hidden |= column <= at - attention_spec.window
    beside = None if sinks is None else sinks.view(kv_heads, -1, 1, 1)
    weights = softmax_beside(scores.masked_fill(hidden, float("-inf")), beside).to(values.dtype)
    mixed = torch.matmul(weights.flatten(1, 2), values.transpose(0, 1))
    return mixed.view(kv_heads, -1, rows, dim).permute(2, 0, 1, 3).reshape(rows, heads, dim)[:wanted]


def _filled(x: Tensor) -> Tensor:
    """`[tokens, heads, dim]` padded with zero rows at the end."""
    more = pad_to_multiple(len(x)) - len(x)
    return functional.pad(x, (0, 0, 0, 0, 0, more)) if more else x


def _blocks(lengths: Sequence[int], shared: int, window: int | None) -> Iterator[tuple[slice, list[slice], int]]:
    """For each block: its queries, the spans of tokens whose keys it sees, and the number of keys before its own."""
    start = 0
    for number, length in enumerate(lengths):
        front = shared if number else 0
        for first in range(0, length, BLOCK_ROWS):
            last = min(first + BLOCK_ROWS, length)
            # The oldest position in the text that the first row of the block sees.
            oldest = 0 if window is None else max(0, front + first - window + 1)
            spans = [slice(oldest, front)] if oldest < front else []
            own = slice(start + max(0, oldest - front), start + last)
            yield slice(start + first, start + last), [*spans, own], front + first - oldest
        start += length


def _seen(x: Tensor, spans: list[slice]) -> Tensor:
    return x[spans[0]] if len(spans) == 1 else torch.cat([x[span] for span in spans])


class _AttentionByDocument(torch.autograd.Function):
    """Attention in blocks. Only queries, keys and values are kept for backward."""

    @staticmethod
    def forward(
        ctx: Any,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        sinks: Tensor | None,
        lengths: tuple[int, ...],
        shared: int,
        attention_spec: AttentionSpec,
    ) -> Tensor:
        ctx.save_for_backward(queries, keys, values, sinks)
        ctx.lengths, ctx.shared, ctx.attention_spec = lengths, shared, attention_spec
        output = torch.empty_like(queries)
        for own, spans, before in _blocks(lengths, shared, attention_spec.window):
            output[own] = _block(queries[own], _seen(keys, spans), _seen(values, spans), sinks, before, attention_spec)
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        queries, keys, values, sinks = ctx.saved_tensors
        # Sums over blocks are float32, since bfloat16 would lose terms that are small compared with the sum.
        wide = torch.promote_types(queries.dtype, torch.float32)
        grad_queries = torch.empty_like(queries)
        grad_keys, grad_values = (torch.zeros_like(x, dtype=wide) for x in (keys, values))
        own_sinks = None if sinks is None else sinks.detach().requires_grad_(ctx.needs_input_grad[3])
        grad_sinks = torch.zeros_like(sinks, dtype=wide) if ctx.needs_input_grad[3] else None
        for own, spans, before in _blocks(ctx.lengths, ctx.shared, ctx.attention_spec.window):
            leaves = [x.detach().requires_grad_() for x in (queries[own], _seen(keys, spans), _seen(values, spans))]
            with torch.enable_grad():
                mixed = _block(leaves[0], leaves[1], leaves[2], own_sinks, before, ctx.attention_spec)
            if grad_sinks is not None and own_sinks is not None:
                leaves.append(own_sinks)
            own_grads = torch.autograd.grad(mixed, leaves, grads[0][own])
            if grad_sinks is not None:
                grad_sinks += own_grads[3]
            grad_queries[own] = own_grads[0]
            start = 0
            for span in spans:
                stop = start + span.stop - span.start
                grad_keys[span] += own_grads[1][start:stop]
                grad_values[span] += own_grads[2][start:stop]
                start = stop
        last = None if grad_sinks is None else grad_sinks.to(sinks.dtype)
        return grad_queries, grad_keys.to(keys.dtype), grad_values.to(values.dtype), last, None, None, None


def attention_by_document(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    lengths: Sequence[int],
    shared: int,
    attention_spec: AttentionSpec,
    sinks: Tensor | None = None,
) -> Tensor:
    """Causal attention within documents, with a window, a soft cap and sinks if given. It is differentiable.

    Args:
        queries: query vectors `[tokens, heads, head_dim]`.
        keys, values: key and value vectors `[tokens, kv_heads, head_dim]`.
        lengths: number of tokens of each document, end to end.
        shared: if above 0, document 0 has this many tokens and is the common beginning that all others see.
        attention_spec: scale, window and soft cap.
        sinks: learned scores `[heads]`, or None.
    """
    arguments = (queries, keys, values, sinks, tuple(lengths), shared, attention_spec)
    result: Tensor = _AttentionByDocument.apply(*arguments)
    return result
