"""Causal attention within documents of a packed sequence on CUDA, by torch's own kernels.

torch ships FlashAttention 2 as an operation of its own (`aten::_flash_attention_forward` and `…_backward`), which takes
packs, windows and grouped queries. `torch.nn.attention.varlen` wraps it, but newer releases of that module may choose
cuDNN instead, which has been several times slower on some cards, and gave wrong results for some layouts
(pytorch issue 187770, pull request 194818). So the operation itself is called. What it cannot do (float32, cards older
than Ampere, heads wider than 256) goes to `scaled_dot_product_attention`, one document a call.

Soft caps are in neither: `veneer.model.windowed` computes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from veneer.gpu.transfer import sent
from veneer.native.attention import refuse_other_lengths

MIN_CAPABILITY = (8, 0)
"""FlashAttention 2 needs Ampere."""

MAX_HEAD_DIM = 256
"""The widest head that FlashAttention 2 takes; it must be a multiple of 8."""


@dataclass(frozen=True, slots=True)
class Beginning:
    """Where the keys of documents stand that are read with a shared beginning in front of each.

    The keys of a pack are then `[beginning, beginning + own tokens of document 1, beginning + …]`.
    """

    tokens: int
    """Tokens of the shared beginning."""
    documents: int
    """Documents that see it; the beginning itself is the first."""
    rows: Tensor
    """The token of the pack that each key is, int64 `[keys]`."""
    own: Tensor
    """The keys that stand for the tokens behind the beginning, int64 `[tokens − beginning]`."""
    copies: Tensor
    """The keys that stand for the beginning, document by document, int64 `[documents · beginning]`."""


@dataclass(frozen=True, slots=True)
class Pack:
    """Documents packed end to end, as the kernel reads them."""

    queries: Tensor
    """Where documents begin and end among the queries, int32 `[documents + 1]`."""
    keys: Tensor
    """Where documents begin and end among the keys, int32 `[documents + 1]`."""
    longest: tuple[int, int]
    """Tokens of the longest document, among the queries and among the keys."""
    beginning: Beginning | None


@lru_cache(maxsize=8)
def _pack(lengths: tuple[int, ...], shared: int, device: torch.device) -> Pack:
    """The layout of documents on a device. It is kept, because every layer of a model asks for it again."""
    ends = list(accumulate(lengths, initial=0))
    borders = sent(torch.tensor(ends, dtype=torch.int32), device)
    if not shared:
        return Pack(borders, borders, (max(lengths), max(lengths)), None)
    key_lengths = [shared, *(shared + length for length in lengths[1:])]
    key_ends = list(accumulate(key_lengths, initial=0))
    start = torch.arange(shared)
    rows = torch.cat((start, *(torch.cat((start, torch.arange(a, b))) for a, b in pairwise(ends[1:]))))
    own = [torch.arange(a + shared, b) for a, b in pairwise(key_ends[1:])]
    copies = torch.cat([start + first for first in key_ends[:-1]])
    indices = (rows, torch.cat(own) if own else torch.empty(0, dtype=torch.int64), copies)
    beginning = Beginning(shared, len(lengths), *(sent(index, device) for index in indices))
    keys = sent(torch.tensor(key_ends, dtype=torch.int32), device)
    return Pack(borders, keys, (max(lengths), max(key_lengths)), beginning)


class _WithBeginning(torch.autograd.Function):
    """Keys or values, with the shared beginning in front of each document's own.

    A shared token's gradient is the sum over all documents. It is taken in float32 or wider and in a fixed order: a sum
    of many bfloat16 numbers in bfloat16 loses what is below 1/256 of it, and atomic additions come in any order.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, beginning: Beginning) -> Tensor:
        ctx.beginning = beginning
        return x.index_select(0, beginning.rows)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        beginning: Beginning = ctx.beginning
        grad = grads[0]
        wide = torch.promote_types(grad.dtype, torch.float32)
        copies = grad.index_select(0, beginning.copies).view(beginning.documents, beginning.tokens, *grad.shape[1:])
        total = copies.sum(0, dtype=wide).to(grad.dtype)
        return torch.cat((total, grad.index_select(0, beginning.own))), None


class _Flash(torch.autograd.Function):
    """FlashAttention 2 over a pack."""

    @staticmethod
    def forward(ctx: Any, queries: Tensor, keys: Tensor, values: Tensor, pack: Pack, settings: FlashSettings) -> Tensor:
        output, lse, state = flash_forward(queries, keys, values, pack, settings)
        ctx.save_for_backward(queries, keys, values, output, lse, state)
        ctx.pack, ctx.settings = pack, settings
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        found = flash_backward(grads[0].contiguous(), ctx.saved_tensors, ctx.pack, ctx.settings)
        return (*found, None, None)


@dataclass(frozen=True, slots=True)
class FlashSettings:
    """What the kernel is told beside its tensors."""

    scale: float
    """Factor of the scores."""
    window: int | None
    """Keys that a query sees, itself among them; None for all before it."""

    @property
    def left(self) -> int:
        """Keys before its own that a query sees, −1 for all."""
        return -1 if self.window is None else self.window - 1


def flash_forward(
    queries: Tensor, keys: Tensor, values: Tensor, pack: Pack, settings: FlashSettings
) -> tuple[Tensor, Tensor, Tensor]:
    """Causal attention; the last query of a document sees all of its keys, be they more than its queries.

    Args:
        queries: `[tokens, heads, head_dim]`.
        keys, values: `[key tokens, kv_heads, head_dim]`.
        pack: the documents.
        settings: scale and window.

    Returns:
        The mixed values, the log-sum-exp of each row, float32 `[heads, tokens]`, and the state of a generator that is
        not used.
    """
    output, lse, state, _, _ = torch.ops.aten._flash_attention_forward(
        queries, keys, values, pack.queries, pack.keys, *pack.longest, 0.0, True, False,
        scale=settings.scale, window_size_left=settings.left, window_size_right=0,
    )  # fmt: skip
    return output, lse, state


def flash_backward(
    grad: Tensor, saved: Sequence[Tensor], pack: Pack, settings: FlashSettings
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of queries, keys and values. The sums of the queries' gradients are atomic, in any order, unless torch
    must be deterministic.

    Args:
        grad: the gradient of the output.
        saved: queries, keys, values, the output, and what `flash_forward` returned after it.
        pack: the documents.
        settings: scale and window.
    """
    queries, keys, values, output, lse, state = saved
    unused = torch.empty(0, device=grad.device)
    found: tuple[Tensor, Tensor, Tensor] = torch.ops.aten._flash_attention_backward(
        grad, queries, keys, values, output, lse, pack.queries, pack.keys, *pack.longest, 0.0, True, state, unused,
        scale=settings.scale, window_size_left=settings.left, window_size_right=0,
    )  # fmt: skip
    return found


def flash_takes(queries: Tensor) -> bool:
    """Whether FlashAttention computes these queries, with a window too."""
    return (
        queries.is_cuda
        and flash_takes_heads(queries.shape[-1], queries.dtype)
        and torch.version.hip is None
        and torch.cuda.get_device_capability(queries.device) >= MIN_CAPABILITY
    )


def flash_takes_heads(head_dim: int, dtype: torch.dtype) -> bool:
    """Whether FlashAttention computes such heads, on a card that it runs on."""
    return dtype in (torch.bfloat16, torch.float16) and head_dim % 8 == 0 and head_dim <= MAX_HEAD_DIM


def packed_attention(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    lengths: Sequence[int],
    scale: float,
    *,
    shared: int = 0,
    window: int | None = None,
) -> Tensor:
    """Mix the values that each query may see, `[tokens, heads, head_dim]`; differentiable.

    Args:
        queries: `[tokens, heads, head_dim]`.
        keys, values: `[tokens, kv_heads, head_dim]`; `heads` is a multiple of `kv_heads`.
        lengths: tokens of each document, end to end.
        scale: the factor of the scores, usually head_dim ** -0.5.
        shared: if above 0, document 0 has this many tokens and is the common beginning that all others see.
        window: the number of keys that a query sees, including its own; only if `flash_takes` the queries.

    Raises:
        ValueError: the lengths do not fit the tensors, by which the kernel reads memory; or there is a window that
            no kernel takes.
    """
    lengths = tuple(lengths)
    refuse_other_lengths(sum(lengths), queries, keys, values)
    if shared and lengths[0] != shared:
        raise ValueError(f"{shared} tokens are shared, but document 0 has {lengths[0]}")
    if not flash_takes(queries):
        if window is not None:
            raise ValueError(f"a window of {window} keys, which FlashAttention does not compute for these queries")
        return one_call_a_document(queries, keys, values, lengths, scale, shared=shared)
    pack = _pack(lengths, shared, queries.device)
    if pack.beginning is not None:
        keys, values = (_WithBeginning.apply(x, pack.beginning) for x in (keys, values))
    result: Tensor = _Flash.apply(queries, keys, values, pack, FlashSettings(scale, window))
    return result


def repeated(x: Tensor, heads: int) -> Tensor:
    """Keys or values `[…, kv_heads, head_dim]` with each head repeated, so that there are as many as query heads.

    torch's kernel for float32 and for older cards takes no grouped queries. Asked for them, torch falls back, without a
    word, to a path that holds the scores of all heads in memory (pytorch pull request 181528).
    """
    groups = heads // x.shape[-2]
    if groups == 1:
        return x
    # By a view, whose gradient is a sum in a fixed order.
    return x.unsqueeze(-2).expand(*x.shape[:-1], groups, x.shape[-1]).flatten(-3, -2)


def one_call_a_document(
    queries: Tensor, keys: Tensor, values: Tensor, lengths: Sequence[int], scale: float, *, shared: int = 0
) -> Tensor:
    """Packed attention by one call of `scaled_dot_product_attention` a document, on every device and in every dtype."""
    key_lengths = list(lengths)
    if shared:
        beginning = _pack(tuple(lengths), shared, queries.device).beginning
        keys, values = (_WithBeginning.apply(x, beginning) for x in (keys, values))
        key_lengths[1:] = [shared + length for length in lengths[1:]]
    # The queries of the shared beginning are computed again with every document, and what comes of them is dropped: a
    # square problem needs no mask tensor, and torch has fused kernels for it. So they have no gradient there.
    front = queries[:shared].detach()
    documents = zip(
        torch.split(queries, list(lengths)),
        torch.split(keys, key_lengths),
        torch.split(values, key_lengths),
        strict=True,
    )
    pieces = []
    for number, (q, k, v) in enumerate(documents):
        before = shared if number else 0
        whole = torch.cat((front, q)) if before else q
        q, k, v = (repeated(x, queries.shape[1]).transpose(0, 1)[None] for x in (whole, k, v))
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale)
        pieces.append(mixed[0].transpose(0, 1)[before:])
    return torch.cat(pieces)
