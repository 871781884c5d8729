"""KTO: the formula on full logits, a reference point of the whole step, and partners that are others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from preference_rows import answer_logps, gradients_over, largest_difference, trainable_model
from veneer.config import KtoSection
from veneer.data.batches import pack
from veneer.data.chat import Example
from veneer.model.decoder import CausalLM
from veneer.training.objective import OverModel
from veneer.training.objectives.kto import KL, Kto, Partners
from veneer.training.objectives.reference import ReferenceTable
from veneer.training.reference_point import WithReferencePoint

LABELS = np.array([True, False] * 7)
"""The chosen answers of the pairs are desirable."""
SETTINGS = KtoSection(beta=0.3, desirable_weight=1.2, undesirable_weight=0.7)


def references(partners: Partners, numbers: Sequence[int], shift: float) -> dict[tuple[int, int], float]:
    """Log-probabilities that a reference might have; a shift upwards makes the reference point negative."""
    return {pair: -4.0 * partners.joined(*pair).supervised + shift for pair in partners.of(numbers)}


def objective(model: CausalLM, answers: list[Example], shift: float = -80.0) -> WithReferencePoint:
    source = np.random.default_rng(1)
    table = ReferenceTable(np.array([-4.0 * one.supervised + source.normal(scale=3.0) for one in answers]))
    partners = Partners(answers, seed=0)
    known = references(partners, range(len(answers)), shift)
    return WithReferencePoint(OverModel(model, Kto(SETTINGS, table, LABELS)), partners, known)


@pytest.mark.parametrize("shift", [-80.0, 200.0])
def test_loss_gradients_and_metrics_are_those_of_the_formula(
    shift: float, answers: list[Example], tiny_model: Path
) -> None:
    """With a policy that is nearer than the reference, the reference point is 0 and not below."""
    model = trainable_model(tiny_model)
    over = objective(model, answers, shift)
    kto = over.over.objective
    assert isinstance(kto, Kto)
    gains = [
        float(answer_logps(model, over.partners.joined(*pair)).sum().detach()) - value
        for pair, value in over.reference.items()
    ]
    point = max(0.0, sum(gains) / len(gains))
    assert (point > 0) == (shift < 0)
    losses, rewards = [], []
    for number, example in enumerate(answers):
        gain = answer_logps(model, example).sum() - kto.reference.values[number]
        rewards.append(SETTINGS.beta * float(gain.detach()))
        above = torch.sigmoid(SETTINGS.beta * (gain - point))
        below = torch.sigmoid(SETTINGS.beta * (point - gain))
        losses.append(1.2 * (1 - above) if LABELS[number] else 0.7 * (1 - below))
    loss = torch.stack(losses).mean()
    model.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    expected = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    means, found = gradients_over(model, over, pack(answers, 150))
    assert means.loss == pytest.approx(float(loss.detach()), rel=1e-6)
    assert largest_difference(found, expected) < 5e-6
    assert means.metrics[KL] == pytest.approx(point, rel=1e-5)
    assert means.metrics["rewards/chosen"] == pytest.approx(np.mean(rewards[::2]), rel=1e-5)
    assert means.metrics["rewards/rejected"] == pytest.approx(np.mean(rewards[1::2]), rel=1e-5)


def test_micro_batches_of_one_row_give_the_gradients_of_the_whole_step(
    answers: list[Example], tiny_model: Path
) -> None:
    """Others take the reference point of each micro-batch by itself."""
    model = trainable_model(tiny_model)
    over = objective(model, answers)
    whole, expected = gradients_over(model, over, pack(answers, 10**6))
    for most in (1, 100, 200):
        for share in (True, False):
            means, found = gradients_over(model, over, pack(answers, most, share=share))
            assert largest_difference(found, expected) < 1e-6
            assert means.loss == pytest.approx(whole.loss, rel=1e-6)
            assert means.metrics == pytest.approx(whole.metrics, rel=1e-5)


def text(*tokens: int, prompt: int) -> Example:
    return Example(np.array(tokens, dtype=np.int32), np.arange(len(tokens)) >= prompt, "f")


def test_every_partner_has_another_prompt_and_another_answer() -> None:
    """Two answers to one prompt, as pairs make them, are no partners, and neither are equal answers."""
    tokens = [(1, 2, 10), (1, 2, 11), (3, 4, 10), (5, 6, 12, 13)]
    examples = [text(*one, prompt=2) for one in tokens]
    partners = Partners(examples, seed=0)
    found = partners.of(range(4))
    assert {number for number, _ in found} == {0, 1, 2, 3}
    for number, other in found:
        assert examples[number].tokens[:2].tolist() != examples[other].tokens[:2].tolist()
        assert examples[number].tokens[2:].tolist() != examples[other].tokens[2:].tolist()
    joined = partners.joined(0, 3)
    assert joined.tokens.tolist() == [1, 2, 12, 13]
    assert joined.loss_mask.tolist() == [False, False, True, True]


@pytest.mark.parametrize("numbers", [[2], [0, 1], [0, 2]])
def test_rows_without_a_partner_have_none(numbers: list[int]) -> None:
    """A single row, two answers to one prompt, and equal answers: y′ is never y."""
    examples = [text(1, 2, 10, prompt=2), text(1, 2, 11, prompt=2), text(3, 4, 10, prompt=2)]
    assert Partners(examples, seed=0).of(numbers) == []


def test_partners_depend_on_the_rows_of_a_step_and_not_on_their_order() -> None:
    examples = [text(n, n + 1, 50 + n, prompt=2) for n in range(20)]
    partners = Partners(examples, seed=3)
    numbers = [4, 9, 1, 17, 12, 3, 8]
    assert dict(partners.of(numbers)) == dict(partners.of(numbers[::-1]))
    assert partners.of(numbers) != Partners(examples, seed=4).of(numbers)
