"""Attention within documents: torch's kernel for packs under each of its signatures, and one call a document."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from veneer.gpu import attention
from veneer.gpu.attention import Varlen, attention_by_document, packed_attention, varlen


def masked_softmax(q: Tensor, k: Tensor, v: Tensor, scale: float, visible: Tensor) -> Tensor:
    """The formula in float64; `visible` bool `[queries, keys]`."""
    groups = q.shape[1] // k.shape[1]
    k, v = (x.double().repeat_interleave(groups, 1).transpose(0, 1) for x in (k, v))
    scores = (q.double().transpose(0, 1) @ k.transpose(1, 2)) * scale
    return (scores.masked_fill(~visible, -math.inf).softmax(-1) @ v).transpose(0, 1)


def visible(lengths: tuple[int, ...], shared: int) -> Tensor:
    """Which token sees which: its own document up to itself, and the shared beginning."""
    document = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    place = torch.arange(len(document))
    seen = (document[:, None] == document[None, :]) & (place[:, None] >= place[None, :])
    return seen | ((place[None, :] < shared) & (document[:, None] > 0))


def problem(lengths: tuple[int, ...], heads: int, kv_heads: int, dim: int) -> list[Tensor]:
    tokens = sum(lengths)
    return [torch.randn(tokens, count, dim).requires_grad_() for count in (heads, kv_heads, kv_heads)]


def by_borders(
    q: Tensor, k: Tensor, v: Tensor, borders_q: Tensor, borders_k: Tensor, max_q: int, max_k: int, scale: float
) -> Tensor:
    """What torch's kernel promises: causal, aligned at the end of each document."""
    pieces = []
    ends = zip(borders_q.tolist(), borders_q.tolist()[1:], borders_k.tolist(), borders_k.tolist()[1:], strict=False)
    for a, b, c, d in ends:
        assert b - a <= max_q
        assert d - c <= max_k
        seen = torch.ones(b - a, d - c, dtype=torch.bool).tril((d - c) - (b - a))
        pieces.append(masked_softmax(q[a:b], k[c:d], v[c:d], scale, seen))
    return torch.cat(pieces).to(q.dtype)


def as_in_2_10(q: Any, k: Any, v: Any, bq: Any, bk: Any, mq: int, mk: int, is_causal: bool = False) -> Tensor:
    assert is_causal
    assert q.shape[1] == k.shape[1]
    return by_borders(q, k, v, bq, bk, mq, mk, q.shape[-1] ** -0.5)


def as_in_2_11(
    q: Any, k: Any, v: Any, bq: Any, bk: Any, mq: int, mk: int, *,
    scale: float | None = None, window_size: tuple[int, int] = (-1, -1),
) -> Tensor:  # fmt: skip
    assert window_size == (-1, 0)
    assert q.shape[1] == k.shape[1]
    assert scale is not None
    return by_borders(q, k, v, bq, bk, mq, mk, scale)


def as_in_2_12(
    q: Any, k: Any, v: Any, bq: Any, bk: Any, mq: int, mk: int, *,
    scale: float | None = None, window_size: tuple[int, int] = (-1, -1), enable_gqa: bool = False,
) -> Tensor:  # fmt: skip
    assert window_size == (-1, 0)
    assert enable_gqa == (q.shape[1] != k.shape[1])
    assert scale is not None
    return by_borders(q, k, v, bq, bk, mq, mk, scale)


CASES = [((1,), 0), ((5, 1, 9), 0), ((4, 3, 1, 6), 4), ((7,), 7), ((1, 1, 1), 1)]


@pytest.mark.parametrize("function", [None, as_in_2_10, as_in_2_11, as_in_2_12])
@pytest.mark.parametrize(("lengths", "shared"), CASES)
@pytest.mark.parametrize(("heads", "kv_heads", "scale"), [(4, 2, 16**-0.5), (3, 3, 0.7), (4, 1, 0.1)])
def test_every_way_is_the_masked_softmax(
    function: Callable[..., Tensor] | None,
    lengths: tuple[int, ...],
    shared: int,
    heads: int,
    kv_heads: int,
    scale: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if function is not None:
        monkeypatch.setattr(attention, "_flash_takes", lambda queries: True)
        monkeypatch.setattr(attention, "varlen", lambda: Varlen(function))
    leaves = problem(lengths, heads, kv_heads, 16)
    found = packed_attention(*leaves, lengths, scale, shared=shared)
    exact = [x.detach().double().requires_grad_() for x in leaves]
    expected = masked_softmax(*exact, scale, visible(lengths, shared))
    grad = torch.randn_like(found)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
    for ours, theirs in zip(
        torch.autograd.grad(found, leaves, grad), torch.autograd.grad(expected, exact, grad.double()), strict=True
    ):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shared", [0, 4])
def test_the_installed_torch_takes_the_call(shared: int) -> None:
    """On the meta device, where torch checks arguments and computes shapes only, forward and backward."""
    function = varlen()
    if function is None:
        pytest.skip(f"torch {torch.__version__} has no attention over packs")
    lengths = (4, 3, 5)
    borders, key_borders, rows = attention._pack(lengths, shared, torch.device("cpu"))
    key_tokens = 12 if rows is None else len(rows)
    assert key_tokens == int(key_borders[-1])
    sizes = ((12, 4), (key_tokens, 2), (key_tokens, 2))
    q, k, v = (
        torch.empty(tokens, heads, 64, dtype=torch.bfloat16, device="meta", requires_grad=True)
        for tokens, heads in sizes
    )
    output = function(q, k, v, (borders.to("meta"), key_borders.to("meta")), (5, 5 + shared), 0.125)
    assert output.shape == q.shape
    output.sum().backward()
    assert k.grad is not None
    assert k.grad.shape == k.shape


def test_flash_is_not_asked_for_what_it_cannot_do(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not attention._flash_takes(torch.zeros(2, 2, 64, dtype=torch.bfloat16))
    monkeypatch.setattr(torch.Tensor, "is_cuda", True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    assert attention._flash_takes(torch.zeros(2, 2, 64, dtype=torch.bfloat16))
    assert not attention._flash_takes(torch.zeros(2, 2, 64))
    assert not attention._flash_takes(torch.zeros(2, 2, 20, dtype=torch.bfloat16))
    assert not attention._flash_takes(torch.zeros(2, 2, 264, dtype=torch.bfloat16))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert not attention._flash_takes(torch.zeros(2, 2, 64, dtype=torch.float16))


def test_lengths_that_do_not_fit_are_refused() -> None:
    q, k, v = problem((5,), 2, 2, 8)
    with pytest.raises(ValueError, match="documents of 6 tokens"):
        packed_attention(q, k, v, (2, 4), 0.3)
    with pytest.raises(ValueError, match="keys"):
        packed_attention(q, k[:4], v[:4], (5,), 0.3)
    with pytest.raises(ValueError, match="3 tokens are shared"):
        packed_attention(q, k, v, (2, 3), 0.3, shared=3)


def test_one_document_is_plain_causal_attention() -> None:
    q, k, v = problem((6,), 2, 1, 8)
    found = attention_by_document(q, k, v, (6,), 0.5)
    torch.testing.assert_close(
        found.double(), masked_softmax(q, k, v, 0.5, torch.ones(6, 6, dtype=torch.bool).tril()), rtol=1e-5, atol=1e-6
    )
