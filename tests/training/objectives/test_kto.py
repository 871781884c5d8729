"""KTO: the formula on full logits, and a reference point of the whole step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from helpers.models.tiny import run_config, write_rows
from helpers.rows.preference_rows import answer_logps, gradients_over, largest_difference, pairs, text, trainable_model
from helpers.training.trl_runs import IN_STEP, ROWS, STEPS, assert_same_adapter, assert_same_course, trained_by_trl
from helpers.training.trl_runs import SETTINGS as SAME_RUN
from veneer.config import KtoSection
from veneer.data.encoded.chat import Example
from veneer.data.micro_batches.orders import order
from veneer.data.micro_batches.packing import pack
from veneer.data.rows import load_rows
from veneer.enums import RowKind
from veneer.events import Event, StepDone
from veneer.io.tokenizer import from_directory
from veneer.model.decoder import CausalLM
from veneer.training.objectives.kto import KL, Kto
from veneer.training.objectives.reference import ReferenceTable
from veneer.training.over_model import OverModel
from veneer.training.references.partners import Partners
from veneer.training.references.reference_point import PartnerLayout, WithReferencePoint
from veneer.training.run import train

LABELS = np.array([True, False] * 5 + [True] * 4)
"""The chosen answers of the pairs are desirable, and in the last two pairs the rejected ones are too."""
SETTINGS = KtoSection(beta=0.3, desirable_weight=1.2, undesirable_weight=0.7)


def objective(model: CausalLM, answers: list[Example], shift: float = -4.0) -> WithReferencePoint:
    """The objective against a reference near the policy: far from it every loss is 0 or its weight, and shows nothing.

    A reference of the partners' answers that is shifted upwards makes the reference point 0.
    """
    source = np.random.default_rng(1)
    own = [float(answer_logps(model, one).sum().detach()) for one in answers]
    table = ReferenceTable(np.array([value + source.normal(scale=3.0) for value in own]))
    partners = Partners.among(answers, seed=0)
    known = {
        pair: float(answer_logps(model, partners.joined(*pair)).sum().detach()) + shift + source.normal(scale=1.0)
        for pair in partners.of(range(len(answers)))
    }
    return WithReferencePoint(OverModel(model, Kto(SETTINGS, table, LABELS)), partners, known)


@pytest.mark.parametrize("shift", [-4.0, 4.0])
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
    shares = np.array([float(one.detach()) for one in losses]) / np.where(LABELS, 1.2, 0.7)
    assert shares.min() > 0.03, "an answer whose loss is 0 shows nothing of its formula"
    assert shares.max() < 0.97
    loss = torch.stack(losses).mean()
    model.zero_grad()
    loss.backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    means, found = gradients_over(model, over, pack(answers, 150))
    assert means.loss == pytest.approx(float(loss.detach()), rel=1e-6)
    assert largest_difference(found, expected) < 5e-6
    assert means.metrics[KL] == pytest.approx(point, rel=1e-5)
    assert means.metrics["rewards/chosen"] == pytest.approx(np.mean(np.array(rewards)[LABELS]), rel=1e-5)
    assert means.metrics["rewards/rejected"] == pytest.approx(np.mean(np.array(rewards)[~LABELS]), rel=1e-5)


@pytest.mark.parametrize("desirable", [True, False])
def test_a_step_without_a_label_has_no_mean_of_its_answers(
    desirable: bool, answers: list[Example], tiny_model: Path
) -> None:
    """It was 0, as if the policy gave such answers the reward and the log-probability 0."""
    model = trainable_model(tiny_model)
    over = objective(model, answers)
    kto = over.over.objective
    assert isinstance(kto, Kto)
    alike = replace(kto, labels=np.full(len(answers), desirable))
    means, _ = gradients_over(model, replace(over, over=OverModel(model, alike)), pack(answers, 150))
    there, missing = ("chosen", "rejected") if desirable else ("rejected", "chosen")
    assert means.metrics[f"logps/{there}"] < 0
    assert means.metrics.keys().isdisjoint({f"rewards/{missing}", f"logps/{missing}"})


def test_micro_batches_of_one_row_give_the_gradients_of_the_whole_step(
    answers: list[Example], tiny_model: Path
) -> None:
    """Others take the reference point of each micro-batch by itself."""
    model = trainable_model(tiny_model)
    over = objective(model, answers)
    whole, expected = gradients_over(model, over, pack(answers, 10**6, share=False))
    for most in (1, 100, 200, 10**6):
        for layout in ({"share": False}, {"share": True}, {"share": True, "prompts": True}):
            own = replace(over, layout=PartnerLayout(beside="prompts" in layout, prompts="prompts" in layout))
            means, found = gradients_over(model, own, pack(answers, most, **layout))
            assert largest_difference(found, expected) < 1e-6
            assert means.loss == pytest.approx(whole.loss, rel=1e-6)
            assert means.metrics == pytest.approx(whole.metrics, rel=1e-5)


def test_answers_to_one_prompt_compute_it_once_in_either_pass(tiny_model: Path) -> None:
    """At least nine tenths of what could be saved are: of the gradients' pass, and of the reference point's."""
    model, source, prompt = trainable_model(tiny_model), np.random.default_rng(2), 150
    asked = [source.integers(1, 90, prompt).tolist() for _ in range(4)]
    answers = [
        text(*asked[number // 2], *source.integers(1, 90, 4 + number).tolist(), prompt=prompt) for number in range(8)
    ]
    alone = objective(model, answers)
    _, expected = gradients_over(model, alone, pack(answers, 10**6, share=False))
    computed: list[int] = []
    model.embedding.register_forward_hook(lambda _module, _args, output: computed.append(len(output)))
    joined = [alone.partners.joined(*pair) for pair in alone.partners.of(range(8))]
    assert len(joined) == 8
    apart = sum(len(one.tokens) for one in (*answers, *joined))
    over = replace(alone, layout=PartnerLayout(beside=True, prompts=True, pad_to_multiple_of=1))
    # In several micro-batches a prompt is computed in two passes, and in one micro-batch once for both.
    for most, passes in ((400, 2), (10**6, 1)):
        computed.clear()
        _, found = gradients_over(model, over, pack(answers, most, prompts=True, pad_to_multiple_of=1))
        assert apart - sum(computed) >= 0.9 * (4 - passes) * 4 * prompt
        assert largest_difference(found, expected) < 1e-6


def test_a_text_that_stands_for_several_rows_is_computed_once(tiny_model: Path) -> None:
    """Three answers to one prompt have the only other one for a partner, and so one text."""
    model = trainable_model(tiny_model)
    prompts = [[60, 1, 2, 3], [61, 4, 5]]
    answers = [text(*prompts[number // 3], 70 + number, 9, prompt=len(prompts[number // 3])) for number in range(4)]
    over = replace(objective(model, answers), layout=PartnerLayout(beside=True, prompts=True, pad_to_multiple_of=1))
    pairs = over.partners.of(range(4))
    texts = over.partners.texts(pairs)
    assert (len(pairs), len(texts.examples)) == (4, 2)
    for pair, use in zip(pairs, texts.uses, strict=True):
        assert over.partners.joined(*pair).tokens.tolist() == texts.examples[use].tokens.tolist()
    means, _ = gradients_over(model, over, pack(answers, 10**6, prompts=True, pad_to_multiple_of=1))
    gains = [
        float(answer_logps(model, over.partners.joined(*pair)).sum().detach()) - over.reference[pair] for pair in pairs
    ]
    assert means.metrics[KL] == pytest.approx(max(0.0, sum(gains) / 4), rel=1e-6)


def judged(number: int, row: dict[str, Any]) -> dict[str, Any]:
    """A row of labels whose prompt and answer no other row has. The first has the longest of both, so that no partner's
    answer is cut."""
    good, more = number % 2 == 0, " late" * (12 if number == 0 else 0)
    return {
        "prompt": [{"role": "user", "content": row["prompt"] + more}],
        "completion": [{"role": "assistant", "content": f"{number}: {row['chosen' if good else 'rejected']}{more}"}],
        "label": good,
    }


def in_rings(examples: Sequence[Example]) -> list[int]:
    """The rows of all steps. Those of a step stand so that each follows the one whose answer it gets, which is how TRL
    takes the answers of others; the order within a step changes nothing else."""
    partners, found = Partners.among(examples, seed=0), list[int]()
    for epoch in range(STEPS * IN_STEP // ROWS):
        ordered = order(ROWS, seed=0, epoch=epoch).tolist()
        for start in range(0, ROWS, IN_STEP):
            after, ring = dict(partners.of(ordered[start : start + IN_STEP])), [ordered[start]]
            while len(ring) < IN_STEP:
                ring.append(after[ring[-1]])
            assert after[ring[-1]] == ring[0]
            found += ring[::-1]
    return found


def test_losses_and_rewards_of_the_first_steps_are_trls(plain_end: Path, tmp_path: Path) -> None:
    """Its reference point is that of a micro-batch: where this is the whole step, both take the same."""
    trl = pytest.importorskip("trl", reason="TRL is not installed")
    rows = [judged(number, row) for number, row in enumerate(pairs(ROWS))]
    events: list[Event] = []
    file, output = write_rows(tmp_path / "rows.jsonl", rows), tmp_path / "run"
    weighed = ("kto.beta=0.3", "kto.desirable_weight=1.2", "kto.undesirable_weight=0.7")
    config = run_config(plain_end, file, output, "objective=kto", *SAME_RUN, *weighed)
    train(config, emit=events.append)
    examples = list(load_rows(config.data, from_directory(plain_end), kind=RowKind.LABELLED).train)
    log, weights = trained_by_trl(
        trl.KTOTrainer, trl.KTOConfig, plain_end, [rows[number] for number in in_rings(examples)], tmp_path / "theirs",
        max_length=None, beta=0.3, desirable_weight=1.2, undesirable_weight=0.7,
    )  # fmt: skip
    steps = [event for event in events if isinstance(event, StepDone)]
    assert max(step.metrics[KL] for step in steps) > 0.1
    assert_same_course(steps, log, (KL, "rewards/chosen", "rewards/rejected"))
    assert_same_adapter(output, weights)
