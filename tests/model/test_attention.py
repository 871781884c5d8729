"""Packed attention equals a masked softmax written out, document by document, and no document sees another."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from helpers.models.tiny_models import BACKENDS, largest_difference, use_backend
from veneer.model.attention import PADDING_WASTE, PackedAttention, similar_groups
from veneer.model.shape import PLAIN_ATTENTION, AttentionSpec
from veneer.model.windowed import attention_by_document

MIXES = [
    [1],
    [9],
    [1, 1, 1],
    [6, 6, 6],
    [1, 40, 1, 2, 3],
    [17, 16, 15, 14, 13],
    [64, 1, 33, 32, 31, 2, 64],
    [3, 70, 5, 66, 4, 68],
]


@pytest.fixture(autouse=True, params=BACKENDS)
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    use_backend(request.param, monkeypatch)
    return str(request.param)


def heads(tokens: int, q_heads: int, kv_heads: int, *, seed: int = 0, dim: int = 16) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(tokens, q_heads, dim, generator=generator, dtype=torch.float64),
        torch.randn(tokens, kv_heads, dim, generator=generator, dtype=torch.float64),
        torch.randn(tokens, kv_heads, dim, generator=generator, dtype=torch.float64),
    )


def written_out(lengths: list[int], queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """softmax over the keys of the same document at or before each query, one token and one head at a time."""
    output = torch.zeros_like(queries)
    shared = queries.shape[1] // keys.shape[1]
    start = 0
    for length in lengths:
        for at in range(start, start + length):
            for head in range(queries.shape[1]):
                scores = keys[start : at + 1, head // shared] @ queries[at, head] / queries.shape[-1] ** 0.5
                output[at, head] = torch.softmax(scores, 0) @ values[start : at + 1, head // shared]
        start += length
    return output


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@pytest.mark.parametrize("lengths", MIXES)
def test_equals_the_masked_softmax_of_each_document(lengths: list[int], kv_heads: int) -> None:
    q, k, v = heads(sum(lengths), 4, kv_heads, seed=len(lengths))
    expected = written_out(lengths, q, k, v)
    ours = PackedAttention(lengths).attend(0, q.float(), k.float(), v.float(), PLAIN_ATTENTION, None)
    assert ours.dtype == torch.float32
    assert largest_difference(ours, expected) < 2e-6
    assert largest_difference(PackedAttention(lengths).attend(0, q, k, v, PLAIN_ATTENTION, None), expected) < 1e-12


@pytest.mark.parametrize("lengths", [[5, 5], [1, 12, 11, 3], [7]])
@pytest.mark.parametrize("kv_heads", [4, 2])
def test_gradients_equal_those_of_the_masked_softmax(lengths: list[int], kv_heads: int) -> None:
    inputs = [x.requires_grad_() for x in heads(sum(lengths), 4, kv_heads)]
    weights = heads(sum(lengths), 4, 1, seed=9)[0]
    expected = torch.autograd.grad((written_out(lengths, *inputs) * weights).sum(), inputs)
    narrow = [x.detach().float().requires_grad_() for x in inputs]
    ours = torch.autograd.grad(
        (PackedAttention(lengths).attend(0, *narrow, PLAIN_ATTENTION, None) * weights.float()).sum(), narrow
    )
    for a, b in zip(ours, expected, strict=True):
        assert largest_difference(a, b) < 1e-5


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(1, 30), min_size=1, max_size=7), st.integers(0, 1000))
def test_any_mix_of_lengths(lengths: list[int], seed: int) -> None:
    q, k, v = heads(sum(lengths), 2, 1, seed=seed, dim=8)
    ours = PackedAttention(lengths).attend(0, q.float(), k.float(), v.float(), PLAIN_ATTENTION, None)
    assert largest_difference(ours, written_out(lengths, q, k, v)) < 2e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("lengths", [mix for mix in MIXES if len(mix) > 1])
def test_a_changed_document_leaves_the_others_bit_for_bit(lengths: list[int], dtype: torch.dtype) -> None:
    inputs = [x.to(dtype) for x in heads(sum(lengths), 4, 2)]
    weights = heads(sum(lengths), 4, 1, seed=9)[0].to(dtype)
    changed = random.Random(len(lengths)).randrange(len(lengths))
    here = slice(sum(lengths[:changed]), sum(lengths[: changed + 1]))
    others = torch.ones(sum(lengths), dtype=torch.bool)
    others[here] = False

    def run(x: list[Tensor]) -> list[Tensor]:
        x = [part.clone().requires_grad_() for part in x]
        y = PackedAttention(lengths).attend(0, *x, PLAIN_ATTENTION, None)
        return [y.detach(), *torch.autograd.grad((y * weights).sum(), x)]

    before = run(inputs)
    noisy = [x.clone() for x in inputs]
    for x, seed in zip(noisy, (5, 6, 7), strict=True):
        x[here] = 30 * torch.randn(x[here].shape, generator=torch.Generator().manual_seed(seed)).to(dtype)
    after = run(noisy)
    assert not torch.equal(before[0][here], after[0][here])
    assert [torch.equal(a[others], b[others]) for a, b in zip(before, after, strict=True)] == [True] * 4


@pytest.mark.parametrize("lengths", [[6, 5, 6], [12, 11, 3], [4, 4]])
def test_a_broken_document_does_not_spread(lengths: list[int]) -> None:
    q, k, v = (x.float() for x in heads(sum(lengths), 4, 2))
    expected = PackedAttention(lengths).attend(0, q, k, v, PLAIN_ATTENTION, None)
    here = slice(lengths[0], lengths[0] + lengths[1])
    for x in (q, k, v):
        x[here] = float("nan")
    ours = PackedAttention(lengths).attend(0, q, k, v, PLAIN_ATTENTION, None)
    assert bool(ours[here].isnan().all())
    assert torch.equal(ours[: here.start], expected[: here.start])
    assert torch.equal(ours[here.stop :], expected[here.stop :])


def test_a_later_token_of_the_same_document_is_not_seen() -> None:
    lengths = [11, 4, 10]
    q, k, v = (x.float() for x in heads(25, 4, 2))
    before = PackedAttention(lengths).attend(0, q, k, v, PLAIN_ATTENTION, None)
    for x in (q, k, v):
        x[7:11] += 1
    after = PackedAttention(lengths).attend(0, q, k, v, PLAIN_ATTENTION, None)
    assert torch.equal(before[:7], after[:7])
    assert not torch.equal(before[7:11], after[7:11])


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(1, 300), max_size=40))
def test_groups_part_the_documents_and_bound_the_padding(lengths: list[int]) -> None:
    groups = similar_groups(lengths)
    assert sorted(index for group in groups for index in group) == list(range(len(lengths)))
    for group in groups:
        sizes = [lengths[index] for index in group]
        assert max(sizes) == sizes[0]
        assert max(sizes) * len(sizes) <= PADDING_WASTE * sum(sizes) + 1e-9


SHARED = [(5, [3, 1, 7]), (1, [2, 2]), (31, [2, 33, 1]), (40, [5, 60]), (64, [32, 1])]


def shared_inputs(shared: int, lengths: list[int], kv_heads: int, seed: int) -> tuple[list[Tensor], Tensor]:
    """Queries, keys and values of a pack with a common beginning, and the tokens of the same pack written out."""
    own = torch.arange(shared, shared + sum(lengths)).split(lengths)
    written = torch.cat([torch.cat((torch.arange(shared), rows)) for rows in own])
    return list(heads(shared + sum(lengths), 4, kv_heads, seed=seed)), written


@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize(("shared", "lengths"), SHARED)
def test_a_shared_beginning_equals_documents_written_out(shared: int, lengths: list[int], kv_heads: int) -> None:
    inputs, written = shared_inputs(shared, lengths, kv_heads, seed=len(lengths))
    inputs = [x.requires_grad_() for x in inputs]
    weights = torch.randn(len(written), *inputs[0].shape[1:], dtype=torch.float64)
    full = PackedAttention([shared + length for length in lengths]).attend(
        0, *(x[written] for x in inputs), PLAIN_ATTENTION, None
    )
    expected = torch.autograd.grad((full * weights).sum(), inputs)
    for dtype, tolerance in ((torch.float64, 1e-11), (torch.float32, 1e-5)):
        narrow = [x.detach().to(dtype).requires_grad_() for x in inputs]
        ours = PackedAttention(lengths, shared).attend(0, *narrow, PLAIN_ATTENTION, None)
        assert largest_difference(ours[written], full) < tolerance
        found = torch.autograd.grad((ours[written] * weights.to(dtype)).sum(), narrow)
        for a, b in zip(found, expected, strict=True):
            assert largest_difference(a, b) < tolerance * 10


def test_a_shared_beginning_sees_no_document() -> None:
    inputs, _ = shared_inputs(20, [5, 9], 2, seed=1)
    narrow = [x.float() for x in inputs]
    before = PackedAttention([5, 9], 20).attend(0, *narrow, PLAIN_ATTENTION, None)
    for x in narrow:
        x[20:25] += 1
    after = PackedAttention([5, 9], 20).attend(0, *narrow, PLAIN_ATTENTION, None)
    assert torch.equal(before[:20], after[:20])
    assert torch.equal(before[25:], after[25:])
    assert not torch.equal(before[20:25], after[20:25])


@pytest.mark.parametrize("shared", [0, 6])
@pytest.mark.parametrize("sinks", [False, True])
@pytest.mark.parametrize(
    "spec",
    [AttentionSpec(0.3), AttentionSpec(window=7), AttentionSpec(softcap=1.5), AttentionSpec(0.2, 40, 2.0)],
    ids=str,
)
def test_windows_caps_and_sinks_are_those_of_blocks_in_float64(spec: AttentionSpec, sinks: bool, shared: int) -> None:
    lengths = [1, 70, 33, 9]
    q, k, v = heads(shared + sum(lengths), 4, 2, seed=shared)
    sink, grad = torch.randn(4, dtype=torch.float64), torch.randn_like(q)
    leaves = [x.requires_grad_() for x in (q, k, v, sink)[: 3 + sinks]]
    documents = [shared, *lengths] if shared else lengths
    expected = attention_by_document(q, k, v, documents, shared, spec, sink if sinks else None)
    own = [x.detach().float().requires_grad_() for x in leaves]
    found = PackedAttention(lengths, shared).attend(0, own[0], own[1], own[2], spec, own[3] if sinks else None)
    assert largest_difference(found, expected) < 2e-6
    pairs = zip(torch.autograd.grad(found, own, grad.float()), torch.autograd.grad(expected, leaves, grad), strict=True)
    for ours, exact in pairs:
        assert largest_difference(ours, exact) < 2e-5
