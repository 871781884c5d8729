"""Attention within documents: torch's FlashAttention over packs, and one call a document."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from helpers.cards import as_on_a_card
from veneer.gpu import attention
from veneer.gpu.attention import FlashSettings, Pack, flash_takes, one_call_a_document, packed_attention


def masked_softmax(q: Tensor, k: Tensor, v: Tensor, scale: float, visible: Tensor) -> Tensor:
    """The formula in float64; `visible` bool `[queries, keys]`."""
    groups = q.shape[1] // k.shape[1]
    k, v = (x.double().repeat_interleave(groups, 1).transpose(0, 1) for x in (k, v))
    scores = (q.double().transpose(0, 1) @ k.transpose(1, 2)) * scale
    return (scores.masked_fill(~visible, -math.inf).softmax(-1) @ v).transpose(0, 1)


def visible(lengths: tuple[int, ...], shared: int, window: int | None = None) -> Tensor:
    """Which token sees which: its own document up to itself, and the shared beginning, within the window."""
    document = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    place = torch.arange(len(document))
    seen = (document[:, None] == document[None, :]) & (place[:, None] >= place[None, :])
    seen = seen | ((place[None, :] < shared) & (document[:, None] > 0))
    if window is None:
        return seen
    starts = torch.tensor([0, *accumulate(lengths)])[document]
    position = place - starts + shared * (document > 0)
    return seen & (position[:, None] - position[None, :] < window)


def problem(lengths: tuple[int, ...], heads: int, kv_heads: int, dim: int) -> list[Tensor]:
    tokens = sum(lengths)
    return [torch.randn(tokens, count, dim).requires_grad_() for count in (heads, kv_heads, kv_heads)]


def by_borders(q: Tensor, k: Tensor, v: Tensor, pack: Pack, settings: FlashSettings) -> Tensor:
    """What FlashAttention promises: causal, aligned at the end of each document, within the window."""
    pieces = []
    for (a, b), (c, d) in zip(pairwise(pack.queries.tolist()), pairwise(pack.keys.tolist()), strict=True):
        assert b - a <= pack.longest[0]
        assert d - c <= pack.longest[1]
        seen = torch.ones(b - a, d - c, dtype=torch.bool).tril((d - c) - (b - a))
        if settings.left >= 0:
            seen &= torch.ones(b - a, d - c, dtype=torch.bool).triu((d - c) - (b - a) - settings.left)
        pieces.append(masked_softmax(q[a:b], k[c:d], v[c:d], settings.scale, seen))
    return torch.cat(pieces).to(q.dtype)


@pytest.fixture
def flash(monkeypatch: pytest.MonkeyPatch) -> None:
    """A card whose FlashAttention is the formula."""

    def forward(q: Tensor, k: Tensor, v: Tensor, pack: Pack, settings: FlashSettings) -> tuple[Tensor, Tensor, Tensor]:
        return by_borders(q, k, v, pack, settings), torch.zeros(q.shape[1], len(q)), torch.zeros(2)

    def backward(grad: Tensor, saved: Sequence[Tensor], pack: Pack, settings: FlashSettings) -> tuple[Tensor, ...]:
        with torch.enable_grad():
            leaves = [x.detach().requires_grad_() for x in saved[:3]]
            return torch.autograd.grad(by_borders(leaves[0], leaves[1], leaves[2], pack, settings), leaves, grad)

    monkeypatch.setattr(attention, "flash_takes", lambda queries: True)
    monkeypatch.setattr(attention, "flash_forward", forward)
    monkeypatch.setattr(attention, "flash_backward", backward)


CASES = [((1,), 0), ((5, 1, 9), 0), ((4, 3, 1, 6), 4), ((7,), 7), ((1, 1, 1), 1)]
HEADS = [(4, 2, 16**-0.5), (3, 3, 0.7), (4, 1, 0.1)]


def check(lengths: tuple[int, ...], shared: int, heads: int, kv_heads: int, scale: float, window: int | None) -> None:
    leaves = problem(lengths, heads, kv_heads, 16)
    found = packed_attention(*leaves, lengths, scale, shared=shared, window=window)
    exact = [x.detach().double().requires_grad_() for x in leaves]
    expected = masked_softmax(*exact, scale, visible(lengths, shared, window))
    grad = torch.randn_like(found)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
    for ours, theirs in zip(
        torch.autograd.grad(found, leaves, grad), torch.autograd.grad(expected, exact, grad.double()), strict=True
    ):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("lengths", "shared"), CASES)
@pytest.mark.parametrize(("heads", "kv_heads", "scale"), HEADS)
def test_a_call_for_each_document_is_the_masked_softmax(
    lengths: tuple[int, ...], shared: int, heads: int, kv_heads: int, scale: float
) -> None:
    check(lengths, shared, heads, kv_heads, scale, None)


@pytest.mark.usefixtures("flash")
@pytest.mark.parametrize("window", [None, 1, 3, 100])
@pytest.mark.parametrize(("lengths", "shared"), CASES)
@pytest.mark.parametrize(("heads", "kv_heads", "scale"), HEADS)
def test_one_call_for_all_documents_is_the_masked_softmax(
    lengths: tuple[int, ...], shared: int, heads: int, kv_heads: int, scale: float, window: int | None
) -> None:
    check(lengths, shared, heads, kv_heads, scale, window)


@pytest.mark.usefixtures("flash")
def test_the_gradient_of_a_beginning_of_many_documents_is_summed_in_float32() -> None:
    """In bfloat16 a sum of 300 equal numbers stands still from 256 on, as `index_add_` does."""
    documents = 300
    lengths = (2, *[1] * documents)
    x = torch.ones(2 + documents, 1, 8, dtype=torch.bfloat16, requires_grad=True)
    pack = attention._pack(lengths, 2, x.device)
    keys = attention._WithBeginning.apply(x, pack.beginning)
    assert keys.shape == (2 + 3 * documents, 1, 8)
    keys.backward(torch.ones_like(keys))
    assert x.grad is not None
    expected = torch.tensor([float(documents + 1)] * 2 + [1.0] * documents).to(torch.bfloat16)
    assert torch.equal(x.grad[:, 0, 0], expected)
    rows = torch.cat([torch.arange(2)] * documents)
    stagnates = torch.zeros(2, dtype=torch.bfloat16).index_add_(0, rows, torch.ones(len(rows), dtype=torch.bfloat16))
    assert float(stagnates.max()) == 256.0, "this test would notice a sum in bfloat16"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_call_for_each_document_sums_the_beginnings_gradient_in_float32(dtype: torch.dtype) -> None:
    documents = 300
    lengths = (2, *[1] * documents)
    wide = [torch.randn(2 + documents, heads, 8).to(dtype).double().requires_grad_() for heads in (2, 1, 1)]
    narrow = [x.detach().to(dtype).requires_grad_() for x in wide]
    grad = torch.ones(2 + documents, 2, 8, dtype=torch.float64)
    found = torch.autograd.grad(one_call_a_document(*narrow, lengths, 0.3, shared=2), narrow, grad.to(dtype))
    exact = torch.autograd.grad(one_call_a_document(*wide, lengths, 0.3, shared=2), wide, grad)
    for ours, theirs in zip(found[1:], exact[1:], strict=True):
        assert float((ours[:2].double() - theirs[:2]).abs().max() / theirs[:2].abs().max()) < 2 * torch.finfo(dtype).eps


@pytest.mark.usefixtures("flash")
def test_the_same_gradient_comes_out_every_time() -> None:
    torch.use_deterministic_algorithms(True)
    try:
        check((4, 3, 1, 6), 4, 4, 2, 0.25, None)
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shared", [0, 3])
def test_torchs_kernel_gets_as_many_key_heads_as_query_heads(
    dtype: torch.dtype, shared: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With fewer, torch would take the path that holds all scores in float32."""
    asked: list[tuple[torch.Size, torch.Size, torch.Size]] = []
    real = attention.functional.scaled_dot_product_attention

    def noted(q: Tensor, k: Tensor, v: Tensor, **settings: Any) -> Tensor:
        assert not settings.get("enable_gqa", False)
        assert settings.get("attn_mask") is None
        asked.append((q.shape, k.shape, v.shape))
        return real(q, k, v, **settings)

    monkeypatch.setattr(attention.functional, "scaled_dot_product_attention", noted)
    q, k, v = (x.detach().to(dtype) for x in problem((3, 4, 2), 6, 2, 16))
    one_call_a_document(q, k, v, (3, 4, 2), 0.25, shared=shared)
    assert len(asked) == 3
    assert all(shapes[0] == shapes[1] == shapes[2] for shapes in asked)


@pytest.mark.parametrize("shared", [0, 4])
@pytest.mark.parametrize("window", [None, 3])
def test_the_installed_torch_takes_the_call(shared: int, window: int | None) -> None:
    """On the meta device, where torch checks arguments and computes shapes only, forward and backward."""
    lengths = (4, 3, 5)
    pack = attention._pack(lengths, shared, torch.device("cpu"))
    key_tokens = 12 if pack.beginning is None else len(pack.beginning.rows)
    assert key_tokens == int(pack.keys[-1])
    sizes = ((12, 4), (key_tokens, 2), (key_tokens, 2))
    q, k, v = (
        torch.empty(tokens, heads, 64, dtype=torch.bfloat16, device="meta", requires_grad=True)
        for tokens, heads in sizes
    )
    meta = Pack(pack.queries.to("meta"), pack.keys.to("meta"), pack.longest, None)
    output = attention._Flash.apply(q, k, v, meta, FlashSettings(0.125, window))
    assert output.shape == q.shape
    output.sum().backward()
    for x in (q, k, v):
        assert x.grad is not None
        assert x.grad.shape == x.shape


@pytest.mark.parametrize(("lengths", "shared", "window"), [((70, 3, 129), 0, None), ((64, 9, 100), 64, 32)])
def test_the_card_computes_the_masked_softmax(lengths: tuple[int, ...], shared: int, window: int | None) -> None:
    if not torch.cuda.is_available() or torch.cuda.get_device_capability() < attention.MIN_CAPABILITY:
        pytest.skip("no card that FlashAttention runs on")
    leaves = [x.detach().cuda().bfloat16().requires_grad_() for x in problem(lengths, 4, 2, 64)]
    found = packed_attention(*leaves, lengths, 0.125, shared=shared, window=window)
    exact = [x.detach().cpu().double().requires_grad_() for x in leaves]
    expected = masked_softmax(*exact, 0.125, visible(lengths, shared, window))
    grad = torch.randn_like(found)
    torch.testing.assert_close(found.double().cpu(), expected, rtol=2e-2, atol=2e-2)
    for ours, theirs in zip(
        torch.autograd.grad(found, leaves, grad), torch.autograd.grad(expected, exact, grad.double().cpu()), strict=True
    ):
        torch.testing.assert_close(ours.double().cpu(), theirs, rtol=3e-2, atol=3e-2)


def test_flash_is_not_asked_for_what_it_cannot_do(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not flash_takes(torch.zeros(2, 2, 64, dtype=torch.bfloat16))
    as_on_a_card(monkeypatch)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    assert flash_takes(torch.zeros(2, 2, 64, dtype=torch.bfloat16))
    assert not flash_takes(torch.zeros(2, 2, 64))
    assert not flash_takes(torch.zeros(2, 2, 20, dtype=torch.bfloat16))
    assert not flash_takes(torch.zeros(2, 2, 264, dtype=torch.bfloat16))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert not flash_takes(torch.zeros(2, 2, 64, dtype=torch.float16))


def test_a_window_that_no_kernel_takes_is_refused() -> None:
    q, k, v = problem((5,), 2, 2, 8)
    with pytest.raises(ValueError, match="window of 3 keys"):
        packed_attention(q, k, v, (5,), 0.3, window=3)


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
    found = one_call_a_document(q, k, v, (6,), 0.5)
    torch.testing.assert_close(
        found.double(), masked_softmax(q, k, v, 0.5, torch.ones(6, 6, dtype=torch.bool).tril()), rtol=1e-5, atol=1e-6
    )
