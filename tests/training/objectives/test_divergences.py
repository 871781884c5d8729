"""The divergence from a teacher is its formula on full logits, whatever is held of them at a time."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from veneer.config import DistillationSection
from veneer.formulas import Divergence
from veneer.products import PLAIN_SCORES, Scores
from veneer.training.objectives.divergences import Taught, divergence_and_slopes, divergences, with_rest

ROWS, DIM, VOCAB, OTHER = 23, 16, 50, 60
KINDS = [
    {"divergence": "forward"},
    {"divergence": "reverse", "temperature": 1.7},
    {"divergence": "generalised", "beta": 0.3, "temperature": 0.8},
    {"divergence": "forward", "temperature": 2.0, "nll": 0.4},
]


def by_definition(logits: Tensor, teacher: Tensor, targets: Tensor, settings: DistillationSection) -> Tensor:
    """The loss as the papers write it, from probabilities of tokens in float64."""
    s = torch.softmax(logits[:, : teacher.shape[1]] / settings.temperature, -1)
    t = torch.softmax(teacher / settings.temperature, -1)
    return _divergence(s, t, settings) + settings.nll * nn.functional.cross_entropy(logits, targets, reduction="sum")


def _divergence(s: Tensor, t: Tensor, settings: DistillationSection) -> Tensor:
    m = settings.beta * t + (1 - settings.beta) * s
    terms = {
        Divergence.FORWARD: t * (t / s).log(),
        Divergence.REVERSE: s * (s / t).log(),
        Divergence.GENERALISED: settings.beta * t * (t / m).log() + (1 - settings.beta) * s * (s / m).log(),
    }
    return terms[settings.divergence].sum()


def inputs(dtype: torch.dtype) -> tuple[Tensor, nn.Module, Tensor, Tensor]:
    """Hidden states, a head with a bias, targets, and a teacher's logits."""
    torch.manual_seed(0)
    hidden = torch.randn(ROWS, DIM, dtype=torch.float64).to(dtype).requires_grad_()
    head = nn.Linear(DIM, OTHER).to(dtype)
    return hidden, head, torch.randint(VOCAB, (ROWS,)), 3 * torch.randn(ROWS, VOCAB, dtype=torch.float64)


def says(teacher: Tensor, settings: DistillationSection, top_k: int | None = None) -> Callable[[slice], Taught]:
    every = torch.log_softmax(teacher / settings.temperature, -1)
    if top_k is None:
        return lambda rows: Taught(every[rows])
    tokens = every.topk(top_k, -1).indices
    return lambda rows: Taught(with_rest(every, tokens)[rows], tokens[rows], VOCAB)


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("scores", [PLAIN_SCORES, Scores(scale=0.5, softcap=3.0)], ids=["plain", "capped"])
def test_loss_and_gradients_are_the_formulas_whatever_the_chunk(kind: dict[str, object], scores: Scores) -> None:
    settings = DistillationSection.model_validate(kind)
    hidden, head, targets, teacher = inputs(torch.float64)
    logits = head(hidden) * scores.scale
    if scores.softcap is not None:
        logits = torch.tanh(logits / scores.softcap) * scores.softcap
    expected = by_definition(logits, teacher, targets, settings)
    wanted = torch.autograd.grad(2.5 * expected, [hidden, *head.parameters()])
    for chunk in (1, 7, 64):
        found = divergences(hidden, head, targets, says(teacher, settings), settings, shaping=scores, chunk=chunk)
        grads = torch.autograd.grad(2.5 * found.loss, [hidden, *head.parameters()])
        assert float(found.loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-12)
        assert all(torch.allclose(one, other, rtol=1e-10, atol=1e-12) for one, other in zip(grads, wanted, strict=True))


@pytest.mark.parametrize("kind", KINDS[:3], ids=str)
def test_the_likeliest_tokens_and_all_others_are_buckets(kind: dict[str, object]) -> None:
    settings = DistillationSection.model_validate(kind)
    hidden, head, targets, teacher = inputs(torch.float64)
    s = torch.softmax(head(hidden)[:, :VOCAB] / settings.temperature, -1)
    t = torch.softmax(teacher / settings.temperature, -1)
    tokens = t.topk(5, -1).indices
    s, t = (torch.cat((one.gather(1, tokens), 1 - one.gather(1, tokens).sum(-1, keepdim=True)), -1) for one in (s, t))
    expected = _divergence(s, t, settings)
    wanted = torch.autograd.grad(expected, [hidden, *head.parameters()])
    found = divergences(hidden, head, targets, says(teacher, settings, 5), settings, shaping=PLAIN_SCORES, chunk=10)
    grads = torch.autograd.grad(found.loss, [hidden, *head.parameters()])
    assert float(found.loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-10)
    assert all(torch.allclose(one, other, rtol=1e-8, atol=1e-10) for one, other in zip(grads, wanted, strict=True))
    whole = divergences(hidden, head, targets, says(teacher, settings), settings, shaping=PLAIN_SCORES)
    assert found.divergence < whole.divergence, "fewer buckets tell the two apart less well"


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_float32_keeps_six_digits(kind: dict[str, object]) -> None:
    settings = DistillationSection.model_validate(kind)
    hidden, head, targets, teacher = inputs(torch.float32)
    expected = by_definition(hidden.double() @ head.weight.double().T + head.bias.double(), teacher, targets, settings)
    wanted = torch.autograd.grad(expected, hidden)[0]
    taught = says(teacher.float(), settings)
    found = divergences(hidden, head, targets, taught, settings, shaping=PLAIN_SCORES)
    assert float(found.loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-6)
    assert float((torch.autograd.grad(found.loss, hidden)[0] - wanted).abs().max()) < 1e-6 * float(wanted.abs().max())


def test_a_student_that_is_its_teacher_has_nothing_to_learn_and_agrees() -> None:
    settings = DistillationSection()
    hidden, head, targets, _ = inputs(torch.float64)
    with torch.no_grad():
        logits = head(hidden)
        found = divergences(hidden, head, targets, says(logits, settings), settings, shaping=PLAIN_SCORES)
    assert float(found.loss) == pytest.approx(0, abs=1e-12)
    assert found.agreement == ROWS
    assert found.cross_entropy == pytest.approx(
        float(nn.functional.cross_entropy(logits, targets, reduction="sum")), rel=1e-12
    )


@pytest.mark.parametrize("kind", Divergence)
def test_probabilities_that_round_to_nothing_leave_every_number_finite(kind: Divergence) -> None:
    one, other = (torch.log_softmax(torch.tensor([[0.0, at, -at, -500.0]]), -1) for at in (300.0, -300.0))
    for losses in divergence_and_slopes(one, other, kind, 0.5):
        assert bool(torch.isfinite(losses).all())
