"""The compiled attention and its gradients are those of the masked softmax."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from veneer.native.attention import Documents, ScoreLimits
from veneer.native.functions import Kernels

PLAIN = ScoreLimits()
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 3e-2}
DOCUMENTS = [
    *(Documents(lengths) for lengths in [(1,), (37, 1, 150), (32, 64), (33, 31, 2, 1, 65), (300,)]),
    *(
        Documents((shared, *own), shared)
        for shared, own in [(1, (1, 40)), (27, (5, 33, 90)), (32, (32,)), (70, (3, 1))]
    ),
]


def masked_softmax_attention(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    lengths: tuple[int, ...],
    shared: int = 0,
    limits: ScoreLimits = PLAIN,
) -> Tensor:
    """Softmax over the keys that a query may see; with `shared`, document 0 is what all the others begin with."""
    group, start, pieces = queries.shape[1] // keys.shape[1], 0, []
    for number, length in enumerate(lengths):
        before = shared if number else 0
        q = queries[start : start + length].transpose(0, 1)
        k, v = (torch.cat((x[:before], x[start : start + length])).transpose(0, 1) for x in (keys, values))
        k, v = k.repeat_interleave(group, 0), v.repeat_interleave(group, 0)
        scores = q @ k.transpose(1, 2) / math.sqrt(q.shape[-1])
        if limits.softcap is not None:
            scores = limits.softcap * torch.tanh(scores / limits.softcap)
        hidden = torch.ones(length, before + length, dtype=torch.bool).triu(1 + before)
        if limits.window is not None:
            hidden |= torch.ones(length, before + length, dtype=torch.bool).tril(before - limits.window)
        scores = scores.masked_fill(hidden, -math.inf)
        if limits.sinks is not None:
            scores = torch.cat((scores, limits.sinks[:, None, None].expand(-1, length, 1)), -1)
        pieces.append((scores.softmax(-1)[..., : before + length] @ v).transpose(0, 1))
        start += length
    return torch.cat(pieces)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("documents", DOCUMENTS)
@pytest.mark.parametrize(("heads", "kv_heads", "dim"), [(9, 3, 64), (4, 4, 16), (2, 1, 80), (3, 1, 128)])
def test_attention_and_its_gradients_are_those_of_the_masked_softmax(
    native: Kernels, dtype: torch.dtype, documents: Documents, heads: int, kv_heads: int, dim: int
) -> None:
    tokens = sum(documents.lengths)
    q, grad = (torch.randn(tokens, heads, dim).to(dtype) for _ in range(2))
    k, v = (torch.randn(tokens, kv_heads, dim).to(dtype) for _ in range(2))
    leaves = [x.double().requires_grad_() for x in (q, k, v)]
    expected = masked_softmax_attention(*leaves, documents.lengths, documents.shared)
    expected.backward(grad.double())

    output, lse = native.attention_forward(q, k, v, documents, dim**-0.5)
    found = native.attention_backward(q, k, v, documents, dim**-0.5, output, lse, grad)

    scale = max(1.0, *(float(x.grad.abs().max()) for x in leaves if x.grad is not None))
    torch.testing.assert_close(output.double(), expected.detach(), atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])
    for got, leaf in zip(found, leaves, strict=True):
        assert leaf.grad is not None
        torch.testing.assert_close(got.double(), leaf.grad, atol=TOLERANCE[dtype] * scale, rtol=TOLERANCE[dtype])


LIMITS = [
    ScoreLimits(window=1),
    ScoreLimits(window=13),
    ScoreLimits(window=32),
    ScoreLimits(window=70),
    ScoreLimits(window=1000),
    ScoreLimits(softcap=2.0),
    ScoreLimits(softcap=50.0),
    ScoreLimits(sinks=torch.tensor([0.5, -3.0, 2.0, 9.0])),
    ScoreLimits(window=40, softcap=3.0, sinks=torch.tensor([1.0, 0.0, -1.0, 4.0])),
]


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("documents", DOCUMENTS)
@pytest.mark.parametrize("limits", LIMITS, ids=str)
def test_windows_caps_and_sinks_and_their_gradients_are_those_of_the_formulas(
    native: Kernels, dtype: torch.dtype, documents: Documents, limits: ScoreLimits
) -> None:
    tokens, heads, kv_heads, dim = sum(documents.lengths), 4, 2, 32 if dtype is torch.bfloat16 else 48
    q, grad = (torch.randn(tokens, heads, dim).to(dtype) for _ in range(2))
    k, v = (torch.randn(tokens, kv_heads, dim).to(dtype) for _ in range(2))
    leaves = [x.double().requires_grad_() for x in (q, k, v)]
    exact = replace(limits, sinks=None if limits.sinks is None else limits.sinks.double())
    expected = masked_softmax_attention(*leaves, documents.lengths, documents.shared, exact)
    expected.backward(grad.double())

    output, lse = native.attention_forward(q, k, v, documents, dim**-0.5, limits)
    found = native.attention_backward(q, k, v, documents, dim**-0.5, output, lse, grad, limits)

    scale = max(1.0, *(float(x.grad.abs().max()) for x in leaves if x.grad is not None))
    torch.testing.assert_close(output.double(), expected.detach(), atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])
    for got, leaf in zip(found, leaves, strict=True):
        assert leaf.grad is not None
        torch.testing.assert_close(got.double(), leaf.grad, atol=TOLERANCE[dtype] * scale, rtol=TOLERANCE[dtype])


def test_a_capped_score_is_exact_over_the_whole_range(native: Kernels) -> None:
    # One key of each score, and one of score 0 beside it: what comes out tells the capped score.
    scores = torch.cat((torch.linspace(-3, 3, 400), torch.logspace(-6, 2, 200), -torch.logspace(-6, 2, 200)))
    for score in scores.split(2):
        lengths = (2,) * len(score)
        q = torch.zeros(2 * len(score), 1, 16)
        q[:, 0, 0] = 1.0
        k, v = torch.zeros_like(q), torch.zeros_like(q)
        k[0::2, 0, 0], v[0::2] = score, 1.0
        output, _ = native.attention_forward(q, k, v, Documents(lengths), 1.0, ScoreLimits(softcap=1.0))
        expected = torch.sigmoid(torch.tanh(score.double()))
        torch.testing.assert_close(output[1::2, 0, 0].double(), expected, atol=2e-7, rtol=0)


def test_large_scores_do_not_overflow(native: Kernels) -> None:
    # Whole numbers, so that float32 holds the scores: otherwise it rounds some thousandths off scores of 40,000, and
    # two keys that are nearly alike show that.
    q, k = (torch.randint(-200, 201, (40, 1, 16)).float() for _ in range(2))
    v = torch.randn(40, 1, 16)
    output, _ = native.attention_forward(q, k, v, Documents((40,)), 0.25)
    expected = masked_softmax_attention(q.double(), k.double(), v.double(), (40,))
    torch.testing.assert_close(output.double(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_the_number_of_threads_changes_no_bit(native: Kernels, threads: int) -> None:
    generator = torch.Generator().manual_seed(3)
    q, g = (torch.randn(90, 6, 32, generator=generator) for _ in range(2))
    k, v = (torch.randn(90, 2, 32, generator=generator) for _ in range(2))
    before = torch.get_num_threads()
    documents, results = Documents((10, 50, 30), 10), []
    try:
        for count in (1, threads):
            torch.set_num_threads(count)
            output, lse = native.attention_forward(q, k, v, documents, 0.2)
            results.append((output, lse, *native.attention_backward(q, k, v, documents, 0.2, output, lse, g)))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_one_query_against_a_cache_sees_only_its_own_line_up_to_its_length(native: Kernels, dtype: torch.dtype) -> None:
    seen = torch.tensor([1, 7, 50, 33, 2])
    q = torch.randn(5, 9, 64).to(dtype)
    k, v = (torch.randn(5, 3, 50, 64).to(dtype) for _ in range(2))
    output = native.attention_step(q, k, v, seen, 0.125)
    for row, length in enumerate(seen.tolist()):
        keys, values = (x[row, :, :length].double().repeat_interleave(3, 0) for x in (k, v))
        expected = torch.softmax((q[row].double()[:, None] @ keys.transpose(1, 2)) * 0.125, -1) @ values
        torch.testing.assert_close(output[row].double(), expected[:, 0], atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])
