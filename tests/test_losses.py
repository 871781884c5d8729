"""The chunked cross-entropy: the plain definition in float64, with gradients that neither vanish nor overflow."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tiny_models import largest_difference
from veneer.losses import (
    CHUNK_ROWS,
    linear_cross_entropy,
    row_losses,
    scored_cross_entropy,
    scored_row_losses,
    token_losses,
)
from veneer.products import Scores as Shaping
from veneer.products import outputs


def problem(rows: int, vocab: int = 37, dim: int = 12, *, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(rows, dim, generator=generator, dtype=torch.float64)
    weight = torch.randn(vocab, dim, generator=generator, dtype=torch.float64)
    return hidden, weight, torch.randint(0, vocab, (rows,), generator=generator)


def written_out(hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Losses of the rows and the gradients of their sum, one row at a time in float64, from the definition."""
    hidden, weight = hidden.double(), weight.double()
    losses, grad_hidden, grad_weight = [], torch.zeros_like(hidden), torch.zeros_like(weight)
    for row, target in enumerate(targets.tolist()):
        scores = weight @ hidden[row]
        largest = float(scores.max())
        total = sum(math.exp(float(score) - largest) for score in scores)
        losses.append(largest + math.log(total) - float(scores[target]))
        for token, score in enumerate(scores.tolist()):
            slope = math.exp(score - largest) / total - (token == target)
            grad_hidden[row] += slope * weight[token]
            grad_weight[token] += slope * hidden[row]
    return torch.tensor(losses, dtype=torch.float64), grad_hidden, grad_weight


def leaves(hidden: Tensor, weight: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    return tuple(x.detach().to(dtype, copy=True).requires_grad_() for x in (hidden, weight))  # type: ignore[return-value]


@pytest.mark.parametrize("chunk", [1, 7, 100])
@pytest.mark.parametrize("rows", [1, 7, 23])
def test_loss_and_gradients_equal_the_definition(rows: int, chunk: int) -> None:
    hidden, weight, targets = problem(rows, seed=rows)
    losses, grad_hidden, grad_weight = written_out(hidden, weight, targets)
    for dtype, tolerance in ((torch.float64, 1e-11), (torch.float32, 2e-5)):
        h, w = leaves(hidden, weight, dtype)
        loss = linear_cross_entropy(h, w, targets, chunk=chunk)
        assert loss.dtype == torch.float64
        assert loss.shape == ()
        assert abs(float(loss.detach()) - float(losses.sum())) < tolerance
        loss.backward()
        assert h.grad is not None
        assert w.grad is not None
        assert (h.grad.dtype, w.grad.dtype) == (dtype, dtype)
        assert largest_difference(h.grad, grad_hidden) < tolerance
        assert largest_difference(w.grad, grad_weight) < tolerance


def test_gradient_check() -> None:
    hidden, weight, targets = problem(9)
    h, w = leaves(hidden, weight, torch.float64)
    assert torch.autograd.gradcheck(lambda a, b: linear_cross_entropy(a, b, targets, chunk=4), (h, w))
    assert torch.autograd.gradcheck(lambda a: 0.3 * linear_cross_entropy(a, weight, targets, chunk=4), (h,))
    assert torch.autograd.gradcheck(lambda b: 0.3 * linear_cross_entropy(hidden, b, targets, chunk=4), (w,))


class Scores(torch.nn.Module):
    """A head that is more than one weight: a product, a low-rank update, and a frozen offset."""

    def __init__(self, weight: Tensor, dtype: torch.dtype):
        super().__init__()
        generator = torch.Generator().manual_seed(7)
        rank = 3
        self.weight = torch.nn.Parameter(weight.to(dtype))
        a, b = (torch.randn(size, generator=generator) for size in ((rank, weight.shape[1]), (len(weight), rank)))
        self.a, self.b = torch.nn.Parameter(a.to(dtype)), torch.nn.Parameter(b.to(dtype))
        self.offset = torch.nn.Parameter(torch.ones(len(weight), dtype=dtype), requires_grad=False)

    def whole(self) -> Tensor:
        return self.weight + self.b @ self.a

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight.t() + x @ self.a.t() @ self.b.t() + self.offset


@pytest.mark.parametrize("chunk", [1, 7, 100])
@pytest.mark.parametrize("learns", ["all", "update", "hidden"])
def test_scores_of_a_module_have_the_losses_and_gradients_of_the_definition(learns: str, chunk: int) -> None:
    hidden, weight, targets = problem(23, seed=1)
    for dtype, tolerance in ((torch.float64, 1e-11), (torch.float32, 5e-5)):
        head = Scores(weight, dtype)
        head.weight.requires_grad_(learns == "all")
        for factor in (head.a, head.b):
            factor.requires_grad_(learns != "hidden")
        losses, grad_hidden, grad_weight = written_out(hidden, head.whole().detach(), targets)
        h = hidden.to(dtype, copy=True).requires_grad_(learns != "update")
        loss = scored_cross_entropy(h, head, targets, chunk=chunk)
        assert abs(float(loss.detach()) - float(losses.sum())) < tolerance
        (0.5 * loss).backward()
        expected = {
            "a": head.b.detach().double().t() @ grad_weight,
            "b": grad_weight @ head.a.detach().double().t(),
            "weight": grad_weight,
        }
        found = {name: parameter.grad for name, parameter in head.named_parameters() if parameter.requires_grad}
        assert found.keys() == {"all": {"a", "b", "weight"}, "update": {"a", "b"}, "hidden": set()}[learns]
        for name, grad in found.items():
            assert grad is not None
            assert largest_difference(grad, 0.5 * expected[name]) < 10 * tolerance
        if learns == "update":
            assert h.grad is None
        else:
            assert h.grad is not None
            assert largest_difference(h.grad, 0.5 * grad_hidden) < tolerance
        with torch.no_grad():
            assert float(scored_cross_entropy(h, head, targets, chunk=chunk)) == pytest.approx(float(losses.sum()))


def test_losses_of_the_tokens_equal_the_definition() -> None:
    hidden, weight, targets = problem(CHUNK_ROWS + 3)
    losses = written_out(hidden, weight, targets)[0]
    assert largest_difference(token_losses(hidden, lambda h: h @ weight.t(), targets), losses) < 1e-12
    for chunk in (1, 100, CHUNK_ROWS, 10_000):
        ours = token_losses(hidden.float(), lambda h: h @ weight.float().t(), targets, chunk=chunk)
        assert ours.dtype == torch.float32
        assert largest_difference(ours, losses) < 1e-5
    assert not token_losses(hidden.requires_grad_(), lambda h: h @ weight.t(), targets).requires_grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_chunk_changes_results_by_the_order_of_sums_alone(dtype: torch.dtype) -> None:
    hidden, weight, targets = problem(64)
    results = []
    for chunk in (1, 5, 64, 1000):
        h, w = leaves(hidden, weight, dtype)
        loss = linear_cross_entropy(h, w, targets, chunk=chunk)
        loss.backward()
        assert h.grad is not None
        assert w.grad is not None
        results.append((loss.detach(), h.grad, w.grad))
    for other in results[1:]:
        assert abs(float(other[0] - results[0][0])) < (1e-4 if dtype == torch.float32 else 0.1)
        assert largest_difference(other[1], results[0][1]) <= (3e-6 if dtype == torch.float32 else 0.04)
        assert largest_difference(other[2], results[0][2]) <= (1e-5 if dtype == torch.float32 else 0.1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_rows_give_zero_and_zero_gradients(dtype: torch.dtype) -> None:
    h, w = leaves(*problem(0)[:2], dtype)
    targets = torch.zeros(0, dtype=torch.int64)
    loss = linear_cross_entropy(h, w, targets)
    assert float(loss.detach()) == 0.0
    loss.backward()
    assert h.grad is not None
    assert w.grad is not None
    assert h.grad.shape == (0, 12)
    assert torch.equal(w.grad, torch.zeros(37, 12, dtype=dtype))
    assert token_losses(h.detach(), lambda x: x @ w.t(), targets).shape == (0,)


def one_score(lead: float, *, others: int = 1, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """A head of `others + 1` tokens of which the first leads by `lead` (follows, where negative)."""
    hidden = torch.ones(1, 1, dtype=dtype)
    weight = torch.cat([torch.tensor([[lead]]), torch.zeros(others, 1)]).to(dtype)
    return hidden.requires_grad_(), weight.requires_grad_()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("lead", [5.0, 16.5, 17.0, 20.0, 30.0, 60.0, 80.0])
def test_a_target_that_leads_far_keeps_its_loss_and_its_gradient(lead: float, dtype: torch.dtype) -> None:
    # Taken as p − 1 the gradient, and as −log p the loss, are 0 in float32 once the lead passes 16.6.
    h, w = one_score(lead, others=3, dtype=dtype)
    loss = linear_cross_entropy(h, w, torch.tensor([0]))
    loss.backward()
    lead = float(w[0].detach())
    exact = 3 * math.exp(-lead) / (1 + 3 * math.exp(-lead))
    close = 1e-5 if dtype == torch.float32 else 2**-7
    assert float(loss.detach()) == pytest.approx(math.log1p(3 * math.exp(-lead)), rel=1e-5)
    assert w.grad is not None
    assert float(w.grad[0]) == pytest.approx(-exact, rel=close)
    assert w.grad[1:, 0].tolist() == pytest.approx([exact / 3] * 3, rel=close)
    alone = token_losses(h.detach(), lambda x: x @ w.t(), torch.tensor([0]))
    assert alone.tolist() == pytest.approx([math.log1p(3 * math.exp(-lead))], rel=1e-5)


@pytest.mark.parametrize("gap", [10.0, 88.0, 104.0, 200.0, 5000.0])
def test_an_unlikely_target_keeps_its_loss(gap: float) -> None:
    h, w = one_score(-gap)
    loss = linear_cross_entropy(h, w, torch.tensor([0]))
    loss.backward()
    assert float(loss.detach()) == pytest.approx(gap, rel=1e-5)
    assert w.grad is not None
    assert w.grad[:, 0].tolist() == pytest.approx([-1.0, 1.0], rel=1e-4)
    assert h.grad is not None
    assert float(h.grad) == pytest.approx(gap, rel=1e-4)
    assert token_losses(h.detach(), lambda x: x @ w.t(), torch.tensor([0])).tolist() == pytest.approx([gap], rel=1e-5)


def test_equal_scores() -> None:
    hidden, weight = torch.zeros(2, 3, requires_grad=True), torch.zeros(5, 3)
    loss = linear_cross_entropy(hidden, weight, torch.tensor([0, 4]))
    assert float(loss.detach()) == pytest.approx(2 * math.log(5), rel=1e-7)


def test_large_scores_do_not_overflow() -> None:
    hidden, weight, targets = problem(5)
    losses, grad_hidden, _ = written_out(1e4 * hidden, weight, targets)
    h, w = leaves(1e4 * hidden, weight, torch.float32)
    loss = linear_cross_entropy(h, w, targets)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(float(losses.sum()), rel=1e-5)
    assert h.grad is not None
    assert largest_difference(h.grad, grad_hidden) < 1e-3


def test_bfloat16_differs_from_float32_by_rounding_alone() -> None:
    hidden, weight, targets = problem(40, vocab=300, dim=64)
    hidden, weight = (0.4 * hidden).bfloat16(), (0.4 * weight).bfloat16()
    losses, grad_hidden, grad_weight = written_out(hidden, weight, targets)
    h, w = leaves(hidden, weight, torch.bfloat16)
    loss = linear_cross_entropy(h, w, targets, chunk=16)
    loss.backward()
    assert abs(float(loss.detach()) - float(losses.sum())) < 0.01 * float(losses.sum())
    for grad, exact in ((h.grad, grad_hidden), (w.grad, grad_weight)):
        assert grad is not None
        assert grad.dtype == torch.bfloat16
        error = (grad.double() - exact).square().mean().sqrt()
        assert float(error) < 0.01 * float(exact.square().mean().sqrt())


def test_a_float32_head_under_bfloat16_activations_gets_a_float32_gradient() -> None:
    hidden, weight, targets = problem(30)
    h, w = hidden.bfloat16().requires_grad_(), weight.float().requires_grad_()
    linear_cross_entropy(h, w, targets).backward()
    assert h.grad is not None
    assert w.grad is not None
    assert (h.grad.dtype, w.grad.dtype) == (torch.bfloat16, torch.float32)
    exact = written_out(hidden.bfloat16(), weight.bfloat16(), targets)[2]
    assert float((w.grad - exact).norm() / exact.norm()) < 0.01


@pytest.mark.parametrize("count", [3, 7, 1500, 77_777])
def test_dividing_by_the_tokens_of_the_step_does_not_round_in_bfloat16(count: int) -> None:
    """1/count rounded to bf16 would scale the whole gradient by as much as 1/512 too much or too little."""
    hidden, weight, targets = problem(60, dim=32)
    h, w = leaves(hidden, weight, torch.bfloat16)
    whole = torch.autograd.grad(linear_cross_entropy(h, w, targets), (h, w))
    parts = torch.autograd.grad(linear_cross_entropy(h, w, targets) / count, (h, w))
    # The rounding of each element averages out, that of a common factor would not.
    for part, one in zip(parts, whole, strict=True):
        ratio = float((part.double() * one.double()).sum() / one.double().square().sum()) * count
        assert abs(ratio - 1) < 3e-4


@pytest.mark.parametrize("needs", ["hidden", "weight", "neither"])
def test_only_what_is_asked_for_is_computed(needs: str) -> None:
    hidden, weight, targets = problem(10)
    _, grad_hidden, grad_weight = written_out(hidden, weight, targets)
    h, w = hidden.requires_grad_(needs == "hidden"), weight.requires_grad_(needs == "weight")
    loss = linear_cross_entropy(h, w, targets)
    assert loss.requires_grad == (needs != "neither")
    if needs != "neither":
        loss.backward()
        grad, exact = (h.grad, grad_hidden) if needs == "hidden" else (w.grad, grad_weight)
        assert grad is not None
        assert largest_difference(grad, exact) < 1e-11
    assert (h.grad is None) == (needs != "hidden")
    assert (w.grad is None) == (needs != "weight")


def test_equals_torch_on_a_strided_input() -> None:
    hidden, weight, targets = problem(18)
    h = hidden.T.contiguous().T.float().requires_grad_()
    ours = torch.autograd.grad(linear_cross_entropy(h, weight.float(), targets, chunk=5), h)[0]
    theirs = torch.autograd.grad(functional.cross_entropy(h @ weight.float().T, targets, reduction="sum"), h)[0]
    assert largest_difference(ours, theirs) < 1e-5


@pytest.mark.parametrize("scores", [Shaping(0.3), Shaping(softcap=2.0), Shaping(1.7, 3.0)])
def test_scores_that_are_scaled_and_capped_are_those_of_the_definition(scores: Shaping) -> None:
    """c · tanh(s · h Wᵀ / c), for a head that is one weight, for one that is a module, and for each token."""
    hidden, weight, targets = problem(23)

    def definition(h: Tensor, w: Tensor) -> Tensor:
        products = h @ w.T * scores.scale
        capped = products if scores.softcap is None else torch.tanh(products / scores.softcap) * scores.softcap
        return functional.cross_entropy(capped, targets, reduction="none")

    exact = leaves(hidden, weight, torch.float64)
    definition(*exact).sum().backward()
    for dtype, tolerance in ((torch.float64, 1e-11), (torch.float32, 2e-5), (torch.bfloat16, 0.1)):
        h, w = leaves(hidden, weight, dtype)
        head = torch.nn.Linear(*reversed(weight.shape), bias=False, dtype=dtype)
        head.weight.data.copy_(weight)
        own = hidden.to(dtype, copy=True).requires_grad_()
        linear_cross_entropy(h, w, targets, chunk=7, shaping=scores).backward()
        scored_cross_entropy(own, head, targets, chunk=7, shaping=scores).backward()
        for found, expected in zip(
            (h.grad, w.grad, own.grad, head.weight.grad), [x.grad for x in exact] * 2, strict=True
        ):
            assert found is not None
            assert expected is not None
            assert largest_difference(found, expected) < tolerance
        by_token = token_losses(hidden.to(dtype), head, targets, chunk=7, shaping=scores)
        assert largest_difference(by_token, definition(hidden, weight)) < tolerance


def test_capped_losses_are_formed_in_float32() -> None:
    """A product in bfloat16 is rounded once: its tanh is not rounded again."""
    hidden, weight, targets = (x.bfloat16() if x.is_floating_point() else x for x in problem(64, vocab=301))
    products = (hidden @ weight.T).float()
    expected = functional.cross_entropy(torch.tanh(products / 30) * 30, targets, reduction="sum")
    loss = linear_cross_entropy(hidden, weight, targets, shaping=Shaping(softcap=30.0))
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("chunk", [1, 7, 100])
@pytest.mark.parametrize("learns", ["all", "update", "hidden"])
def test_losses_of_rows_go_into_any_formula(learns: str, chunk: int) -> None:
    """Each row has a weight of its own in the gradient, as the formula behind it gives it."""
    hidden, weight, targets = problem(23, seed=3)
    share = torch.linspace(-2, 3, 23, dtype=torch.float64)
    for dtype, tolerance in ((torch.float64, 1e-11), (torch.float32, 5e-5)):
        head = Scores(weight, dtype)
        head.weight.requires_grad_(learns == "all")
        for factor in (head.a, head.b):
            factor.requires_grad_(learns != "hidden")
        own = head.whole().detach().double().requires_grad_()
        h64 = hidden.clone().requires_grad_()
        losses = functional.cross_entropy(h64 @ own.t(), targets, reduction="none")
        (losses.square() * share).sum().backward()  # type: ignore[no-untyped-call]
        assert own.grad is not None
        h = hidden.to(dtype, copy=True).requires_grad_(learns != "update")
        found = scored_row_losses(h, head, targets, chunk=chunk)
        assert largest_difference(found, losses.detach()) < tolerance
        (found.double().square() * share).sum().backward()  # type: ignore[no-untyped-call]
        expected = {
            "a": head.b.detach().double().t() @ own.grad,
            "b": own.grad @ head.a.detach().double().t(),
            "weight": own.grad,
        }
        grads = {name: parameter.grad for name, parameter in head.named_parameters() if parameter.requires_grad}
        assert grads.keys() == {"all": {"a", "b", "weight"}, "update": {"a", "b"}, "hidden": set()}[learns]
        for name, grad in grads.items():
            assert grad is not None
            assert largest_difference(grad, expected[name]) < 100 * tolerance
        if learns != "update":
            assert h.grad is not None
            assert largest_difference(h.grad, h64.grad) < 10 * tolerance


@pytest.mark.parametrize("softcap", [None, 5.0])
@pytest.mark.parametrize("chunk", [1, 7, 100])
def test_losses_of_rows_under_one_weight_are_the_definition(chunk: int, softcap: float | None) -> None:
    hidden, weight, targets = problem(23, seed=4)
    share = torch.linspace(-2, 3, 23, dtype=torch.float64)
    shaping = Shaping(scale=0.5, softcap=softcap)
    for dtype, tolerance in ((torch.float64, 1e-11), (torch.float32, 5e-5)):
        h64, w64 = leaves(hidden, weight, torch.float64)
        logits = 0.5 * (h64 @ w64.t())
        logits = logits if softcap is None else softcap * torch.tanh(logits / softcap)
        losses = functional.cross_entropy(logits, targets, reduction="none")
        (losses.square() * share).sum().backward()  # type: ignore[no-untyped-call]
        h, w = leaves(hidden, weight, dtype)
        found = row_losses(h, w, targets, chunk=chunk, shaping=shaping)
        assert found.dtype == dtype
        assert largest_difference(found, losses.detach()) < tolerance
        (found.double().square() * share).sum().backward()  # type: ignore[no-untyped-call]
        for ours, theirs in ((h.grad, h64.grad), (w.grad, w64.grad)):
            assert ours is not None
            assert largest_difference(ours, theirs) < 10 * tolerance


def test_losses_of_rows_in_bfloat16_weigh_rows_in_float32() -> None:
    """A weight that bfloat16 rounds by 1/300 is not rounded: it is multiplied behind the product."""
    hidden, weight, targets = problem(40, seed=5)
    h, w = leaves(hidden, weight, torch.bfloat16)
    row_losses(h, w, targets).sum().backward()  # type: ignore[no-untyped-call]
    plain = h.grad
    assert plain is not None
    again, w2 = leaves(hidden, weight, torch.bfloat16)
    (row_losses(again, w2, targets) * (1 + 1 / 300)).sum().backward()  # type: ignore[no-untyped-call]
    assert again.grad is not None
    expected = (plain.float() * (1 + 1 / 300)).to(torch.bfloat16)
    assert float((again.grad - expected).abs().max()) <= 2**-8 * float(expected.abs().max())
    assert not torch.equal(again.grad, plain)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_frozen_head_scores_rows_once_to_the_bits_of_a_trained_one(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    hidden, weight, targets = problem(50, seed=7)
    share = torch.linspace(-2, 3, 50)
    scored: list[int] = []

    def note(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        scored.append(len(x))
        return outputs(x, *args, **kwargs)

    monkeypatch.setattr("veneer.losses.outputs", note)
    found = {}
    for trained in (True, False):
        h, w = leaves(hidden, weight, dtype)
        w.requires_grad_(trained)
        losses = row_losses(h, w, targets, chunk=16)
        (losses * share).sum().backward()  # type: ignore[no-untyped-call]
        found[trained] = losses.detach(), h.grad, len(scored)
        scored.clear()
    (losses, gradient, twice), (own, own_gradient, once) = found[True], found[False]
    assert (twice, once) == (8, 4)
    assert torch.equal(losses, own)
    assert gradient is not None
    assert own_gradient is not None
    assert torch.equal(gradient, own_gradient)


def test_no_more_than_a_chunk_of_scores_is_held() -> None:
    hidden, weight, targets = problem(2_000, vocab=5_000, seed=6)
    h, w = leaves(hidden, weight, torch.float32)
    kept: list[int] = []

    def note(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        row_losses(h, w, targets).sum()
    assert sum(kept) <= h.numel() + w.numel() + len(targets)


def test_a_sure_token_keeps_its_gradient_in_float16(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a loss of 1e-4 and less the gradient of its scores is below what float16 holds in full."""
    hidden, weight, _ = problem(64, vocab=37, dim=12)
    targets = (hidden @ weight.T).argmax(-1)
    hidden, weight = (6 * hidden).half().double(), weight.half().double()
    wide = leaves(hidden, weight, torch.float64)
    (exact,) = torch.autograd.grad(linear_cross_entropy(*wide, targets), wide[:1])
    sure = (exact.norm(dim=-1) < 1e-3) & (exact.norm(dim=-1) > 1e-6)
    assert int(sure.sum()) > 10

    def errors(dtype: torch.dtype) -> list[float]:
        found = []
        for of in (linear_cross_entropy, row_losses):
            pair = leaves(hidden, weight, dtype)
            loss = of(*pair, targets).double().sum() * 256
            grad = torch.autograd.grad(loss, pair[:1])[0].double() / 256
            found.append(float(((grad - exact).norm(dim=-1) / exact.norm(dim=-1))[sure].max()))
        return found

    assert max(errors(torch.float16)) < 0.02
    monkeypatch.setattr("veneer.losses.FLOAT16_FACTOR", 1.0)
    assert min(errors(torch.float16)) > 0.04


def test_many_rows_of_one_token_do_not_overflow_the_heads_gradient_in_float16() -> None:
    hidden = torch.full((300, 4), 250.0, dtype=torch.float16)
    weight = torch.zeros(5, 4, dtype=torch.float32, requires_grad=True)
    targets = torch.zeros(300, dtype=torch.int64)
    linear_cross_entropy(hidden, weight, targets).backward()
    assert weight.grad is not None
    assert torch.allclose(weight.grad[0], torch.tensor(-300 * 250 * 0.8), rtol=1e-3)
