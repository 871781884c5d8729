"""Distillation is its formula on full logits of student and teacher, whatever the cut of a step."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from helpers.models.tiny import examples, rows, run_config, write_model, write_rows
from helpers.rows.preference_rows import (
    assert_splits_differ_by_rounding_alone,
    full_logits,
    largest_difference,
    step_gradients,
    trainable_model,
    wide_model,
)
from helpers.training.trl_runs import ROWS, assert_same_adapter, assert_same_course, in_order, trained_by_trl
from helpers.training.trl_runs import SETTINGS as SAME_RUN
from veneer.config import DistillationSection
from veneer.data.encoded.chat import Example
from veneer.data.micro_batches.packing import pack
from veneer.events import Event, StepDone
from veneer.formulas import Divergence
from veneer.model.decoder import CausalLM
from veneer.training.objectives.distillation import AGREEMENT, CROSS_ENTROPY, DISTILLATION, DIVERGENCE, Distillation
from veneer.training.over_model import OverModel
from veneer.training.run import train
from veneer.training.teaching.live_teacher import LiveTeacher

SETTINGS = {
    "forward": DistillationSection(),
    "reverse": DistillationSection(divergence=Divergence.REVERSE, temperature=2.0),
    "generalised": DistillationSection(divergence=Divergence.GENERALISED, beta=0.9),
    "with the rows' own tokens": DistillationSection(nll=0.5),
}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> CausalLM:
    """A model of other weights and another width, over the same tokens."""
    model = trainable_model(write_model(tmp_path_factory.mktemp("teacher") / "model", seed=9, hidden=96))
    model.requires_grad_(False)
    return model


@pytest.fixture(scope="module")
def documents(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Example]:
    return examples(tiny_model, write_rows(tmp_path_factory.mktemp("rows") / "rows.jsonl", rows(9)))


def objective(teacher: CausalLM, settings: DistillationSection) -> Distillation:
    return Distillation(settings, LiveTeacher(teacher, teacher.spec.vocab_size, settings.temperature))


def by_definition(
    student: CausalLM, teacher: CausalLM, documents: list[Example], settings: DistillationSection
) -> tuple[Tensor, dict[str, float]]:
    """Loss and metrics of a step from full logits, in float64."""
    total, nll, agree, tokens = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64), 0, 0
    for document in documents:
        own, targets = full_logits(student, document)
        theirs, _ = full_logits(teacher, document)
        s, t = (torch.softmax(one / settings.temperature, -1) for one in (own, theirs))
        m = settings.beta * t + (1 - settings.beta) * s
        total = (
            total
            + {
                Divergence.FORWARD: t * (t / s).log(),
                Divergence.REVERSE: s * (s / t).log(),
                Divergence.GENERALISED: settings.beta * t * (t / m).log() + (1 - settings.beta) * s * (s / m).log(),
            }[settings.divergence].sum()
        )
        nll = nll - own.gather(1, targets[:, None]).sum()
        agree += int((s.argmax(-1) == t.argmax(-1)).sum())
        tokens += len(targets)
    metrics = {
        DIVERGENCE: float(total.detach()) / tokens, CROSS_ENTROPY: float(nll.detach()) / tokens,
        AGREEMENT: agree / tokens,
    }  # fmt: skip
    return (total + settings.nll * nll) / tokens, metrics


@pytest.mark.parametrize("name", SETTINGS)
def test_loss_gradients_and_metrics_are_those_of_the_formula(
    name: str, tiny_model: Path, teacher: CausalLM, documents: list[Example]
) -> None:
    student, settings = trainable_model(tiny_model), SETTINGS[name]
    loss, metrics = by_definition(student, teacher, documents, settings)
    loss.backward()
    wanted = {path: p.grad.clone() for path, p in student.named_parameters() if p.grad is not None}
    means, found = step_gradients(student, objective(teacher, settings), pack(documents, 120))
    assert means.loss == pytest.approx(float(loss.detach()), rel=1e-6)
    assert means.metrics == pytest.approx(metrics, rel=1e-5)
    assert largest_difference(found, wanted) < 5e-6


@pytest.mark.parametrize("name", SETTINGS)
def test_any_split_packed_or_apart_gives_the_same_gradients(
    name: str, tiny_model: Path, teacher: CausalLM, documents: list[Example]
) -> None:
    student, distillation = trainable_model(tiny_model), objective(teacher, SETTINGS[name])
    whole, expected = step_gradients(student, distillation, pack(documents, 10**6))
    for most in (1, 90, 200):
        for share in (True, False):
            batches = pack(documents, most, share=share)
            means, found = step_gradients(student, distillation, batches)
            assert largest_difference(found, expected) < 1e-6
            assert means.loss == pytest.approx(whole.loss, rel=1e-6)
            assert means.metrics == pytest.approx(whole.metrics, rel=1e-5)


def test_splits_of_a_step_differ_by_the_rounding_of_its_dtype_alone(
    tiny_model: Path, documents: list[Example], tmp_path: Path
) -> None:
    teacher = wide_model(write_model(tmp_path / "teacher", seed=9, hidden=96)).requires_grad_(False)
    student = wide_model(tiny_model)
    over = OverModel(student, objective(teacher, DistillationSection(temperature=0.2, nll=0.5)))
    assert_splits_differ_by_rounding_alone(student, over, documents[:5])


def test_every_sum_is_divided_by_the_steps_supervised_tokens(teacher: CausalLM, documents: list[Example]) -> None:
    weights = objective(teacher, DistillationSection()).weights(pack(documents, 90))
    tokens = sum(one.supervised for one in documents)
    assert weights == dict.fromkeys((DISTILLATION, DIVERGENCE, CROSS_ENTROPY, AGREEMENT), tokens)


THEIRS = {"forward": 0.0, "reverse": 1.0, "generalised": 0.3}
"""β of TRL's GKD for each divergence."""


def padded(rows: Sequence[dict[str, list[int]]]) -> dict[str, Tensor]:
    """Rows of tokens and of what trains, filled up to the longest: `[rows, longest]` each."""
    tokens, labels, seen = (
        torch.nn.utils.rnn.pad_sequence([torch.tensor(part(row)) for row in rows], batch_first=True, padding_value=fill)
        for part, fill in (
            (lambda row: row["input_ids"], 0),
            (lambda row: row["labels"], -100),
            (lambda row: [1] * len(row["labels"]), 0),
        )
    )
    return {"input_ids": tokens, "labels": labels, "attention_mask": seen}


@pytest.mark.filterwarnings("ignore")  # TRL's trainer is among its experimental ones, and says so
@pytest.mark.parametrize("divergence", THEIRS)
def test_losses_of_the_first_steps_are_trls(divergence: str, plain_end: Path, tmp_path: Path) -> None:
    """GKD on given rows (`lmbda` 0), whose loss is at the temperature 1 whatever is set."""
    gkd = pytest.importorskip("trl.experimental.gkd", reason="TRL is not installed")
    from transformers import AutoModelForCausalLM

    file, output = write_rows(tmp_path / "rows.jsonl", rows(ROWS)), tmp_path / "run"
    teacher, events = write_model(tmp_path / "teacher", seed=9, hidden=96), list[Event]()
    beta = THEIRS[divergence]
    settings = (f"distillation.teacher={teacher}", f"distillation.divergence={divergence}", f"distillation.beta={beta}")
    chosen = settings if 0 < beta < 1 else settings[:2]
    train(run_config(plain_end, file, output, "objective=distillation", *SAME_RUN, *chosen), emit=events.append)
    encoded: list[dict[str, Any]] = [
        {
            "input_ids": one.tokens.tolist(),
            "labels": [
                token if trains else -100
                for token, trains in zip(one.tokens.tolist(), one.loss_mask.tolist(), strict=True)
            ],
        }
        for one in examples(plain_end, file)
    ]
    theirs = AutoModelForCausalLM.from_pretrained(teacher, dtype=torch.float32)
    log, weights = trained_by_trl(
        partial(gkd.GKDTrainer, teacher_model=theirs, data_collator=padded), gkd.GKDConfig, plain_end,
        in_order(encoded), tmp_path / "theirs", lmbda=0.0, beta=beta, max_length=None,
    )  # fmt: skip
    assert_same_course([event for event in events if isinstance(event, StepDone)], log, (), logps=())
    assert_same_adapter(output, weights)
