"""An objective of several terms is the same whatever the cut, and has a place in events and in joint runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from helpers.models.tiny import examples, rows, run_config, write_model, write_rows
from helpers.rows.preference_rows import (
    answer_logps,
    assert_splits_differ_by_rounding_alone,
    pair_rows,
    pairs,
    wide_model,
)
from helpers.training.mean_losses import mean_loss
from helpers.training.training_runs import built
from veneer.adapters.layers.score import ScoreHead
from veneer.config import (
    CpoSection,
    DpoSection,
    GrpoSection,
    KtoSection,
    OrpoSection,
    RewardSection,
    SimpoSection,
)
from veneer.data.encoded.chat import Example
from veneer.data.micro_batches.batches import MicroBatch
from veneer.data.micro_batches.packing import pack
from veneer.events import Event, StepDone, from_json, ignore
from veneer.formulas import GrpoLoss
from veneer.io.checkpoint import open_checkpoint
from veneer.loading.forms import WeightForm
from veneer.loading.how import Loading
from veneer.loading.load import load_model
from veneer.machine.heap import heap_kept
from veneer.model.decoder import CausalLM
from veneer.products import Scores
from veneer.run_folder import RunFolder
from veneer.training.folder.locked_folder import locked_folder
from veneer.training.joint import prepare_joint, train_together
from veneer.training.objectives.base import Means, Objective, StepObjective, Sums
from veneer.training.objectives.cpo import Cpo
from veneer.training.objectives.dpo import Dpo
from veneer.training.objectives.grpo import Grpo
from veneer.training.objectives.kto import Kto
from veneer.training.objectives.orpo import Orpo
from veneer.training.objectives.reference import ReferenceTable
from veneer.training.objectives.reward import Reward
from veneer.training.objectives.sft import CROSS_ENTROPY, SupervisedCrossEntropy
from veneer.training.objectives.simpo import Simpo
from veneer.training.over_model import OverModel
from veneer.training.references.partners import Partners
from veneer.training.references.reference_point import WithReferencePoint
from veneer.training.rollouts.table import RolloutTable
from veneer.training.run import train
from veneer.training.run_inputs import prepare_run
from veneer.training.session import Learner, RunResult, begin, threads_of


@dataclass(frozen=True)
class WithNorms:
    """The cross-entropy a supervised token and the squared norm of hidden states a document; counts right answers."""

    share: float = 0.01

    def weights(self, batches: Sequence[MicroBatch]) -> Mapping[str, float]:
        documents = sum(len(batch.lengths) for batch in batches)
        supervised = sum(batch.supervised for batch in batches)
        return {CROSS_ENTROPY: supervised, "norm": documents / self.share, "accuracy": supervised}

    def sums(self, hidden: Tensor, head: nn.Module, scores: Scores, batch: MicroBatch) -> Sums:
        plain = SupervisedCrossEntropy().sums(hidden, head, scores, batch)
        rows = hidden.index_select(0, batch.rows)
        right = (head(rows).argmax(-1) == batch.targets).sum()
        return Sums({**plain.terms, "norm": rows.float().square().sum()}, {"accuracy": float(right)})


@pytest.fixture(scope="module")
def eight(tiny_model: Path, tiny_data: Path) -> list[Example]:
    return examples(tiny_model, tiny_data)[:8]


def by_rows(model_path: Path, rows: list[Example]) -> tuple[float, dict[str, float], dict[str, Tensor]]:
    """Loss, metrics and gradients of a step by their definition, a row at a time."""
    model = load_model(open_checkpoint(model_path), Loading(form=WeightForm.TRAINABLE, dtype=torch.float32))
    supervised = sum(row.supervised for row in rows)
    found = {CROSS_ENTROPY: 0.0, "norm": 0.0, "accuracy": 0.0}
    for row in rows:
        tokens = torch.tensor(row.tokens, dtype=torch.int64)
        hidden = model.documents(tokens, torch.arange(len(tokens)), [len(tokens)])
        taken = torch.tensor(row.loss_mask[1:])
        states, targets = hidden[:-1][taken], tokens[1:][taken]
        logits = model.logits(states)
        entropy = nn.functional.cross_entropy(logits, targets, reduction="sum") / supervised
        norm = 0.01 * states.square().sum() / len(rows)
        (entropy + norm).backward()
        found[CROSS_ENTROPY] += float(entropy.detach())
        found["norm"] += float(norm.detach())
        found["accuracy"] += float((logits.argmax(-1) == targets).sum()) / supervised
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return found[CROSS_ENTROPY] + found["norm"], found, gradients


@pytest.mark.parametrize("most", [1, 100, 10**6])
def test_terms_with_weights_of_their_own_do_not_depend_on_the_cut(
    most: int, eight: list[Example], tiny_model: Path
) -> None:
    model = load_model(open_checkpoint(tiny_model), Loading(form=WeightForm.TRAINABLE, dtype=torch.float32))
    batches, objective = pack(eight, most), OverModel(model, WithNorms())
    means = Means(objective.weights(batches))
    for batch in batches:
        sums = objective.sums(batch)
        sums.loss(means.weights).backward()
        means.add(sums)
    loss, metrics, gradients = by_rows(tiny_model, eight)
    assert means.loss == pytest.approx(loss, rel=1e-5)
    assert means.metrics == pytest.approx(metrics, rel=1e-5)
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        scale = max(1.0, float(gradients[name].abs().max()))
        assert float((parameter.grad - gradients[name]).abs().max()) < 1e-5 * scale, name


def test_one_term_alone_is_the_loss_and_no_metric(eight: list[Example], tiny_model: Path) -> None:
    model = load_model(open_checkpoint(tiny_model), Loading(dtype=torch.float32))
    batches, objective = pack(eight, 100), OverModel(model)
    means = Means(objective.weights(batches))
    for batch in batches:
        means.add(objective.sums(batch))
    assert means.metrics == {}
    assert means.loss == pytest.approx(mean_loss(model, batches), rel=1e-6)


def trained_alone(objective: Objective, model: Path, data: Path, output: Path, *settings: str) -> RunResult:
    """A run with another objective, by the same parts as `veneer.training.run.train`."""
    config = run_config(model, data, output, "train.steps=3", "train.examples_per_step=5", *settings)
    with threads_of(config), heap_kept(), locked_folder(config, False, ignore) as folder:
        log = folder.log
        inputs = prepare_run(config, log.emit)
        language, trainable = built(inputs, log.emit)
        learner = Learner(model=language, trainable=trainable, objective=OverModel(language, objective))
        session = begin(inputs, learner, log, lambda: False)
        session.engine.rehearse(inputs.data.steps.largest)
        session.engine.run()
        return session.end()


def steps_of(folder: Path) -> list[StepDone]:
    found: list[Event | None] = [from_json(event) for event in RunFolder(folder).events()]
    return [event for event in found if isinstance(event, StepDone)]


def test_runs_of_different_objectives_share_a_base_and_are_those_that_they_are_alone(
    tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    objectives: list[Objective] = [WithNorms(), SupervisedCrossEntropy(), WithNorms(share=0.1)]
    runs = []
    for number, objective in enumerate(objectives):
        seed = f"train.seed={number}"
        trained_alone(objective, tiny_model, tiny_data, tmp_path / f"alone-{number}", seed)
        config = run_config(
            tiny_model, tiny_data, tmp_path / f"joint-{number}", "train.steps=3", "train.examples_per_step=5", seed
        )
        runs.append(replace(prepare_joint(config), objective=objective))
    assert all(isinstance(outcome, RunResult) for outcome in train_together(runs, ignore))
    for number in range(len(objectives)):
        alone, joint = tmp_path / f"alone-{number}", tmp_path / f"joint-{number}"
        expected, found = (load_file(folder / "adapter_model.safetensors") for folder in (alone, joint))
        assert all(float((found[name] - tensor).abs().max()) < 1e-5 for name, tensor in expected.items())
        for one, other in zip(steps_of(alone), steps_of(joint), strict=True):
            assert other.loss == pytest.approx(one.loss, rel=1e-4)
            assert dict(other.metrics) == pytest.approx(dict(one.metrics), rel=1e-4)
            assert set(one.metrics) == (set() if number == 1 else {CROSS_ENTROPY, "norm", "accuracy"})


def rows_for(objective: str) -> list[dict[str, Any]]:
    """Eleven rows of an objective, some with a prompt in common."""
    preferred = [row | {"prompt": f"{number // 2}: the parcel?"} for number, row in enumerate(pairs(11))]
    match objective:
        case "pretraining":
            return [{"text": f"{row['prompt']} {row['rejected']}"} for row in pairs(11)]
        case "kto":
            both = [(row, key) for row in preferred for key in ("chosen", "rejected")]
            return [{"prompt": row["prompt"], "completion": row[key], "label": key == "chosen"} for row, key in both]
        case "grpo":
            return [{"prompt": row["prompt"], "good": row["chosen"]} for row in preferred]
        case "sft" | "distillation":
            return rows(11)
    return [row | {"margin": number / 4} if objective == "reward" else row for number, row in enumerate(preferred)]


GRADIENT = ("train.optimizer=sgd", "train.beta1=0", "train.learning_rate=1", "train.weight_decay=0", "train.clip=0",
            "train.schedule=constant", "train.warmup=0", "train.steps=1", "train.examples_per_step=11")  # fmt: skip
"""A step that takes the gradient off the weights."""
EXTREME: dict[str, Callable[[ReferenceTable, CausalLM], Objective]] = {
    "dpo": lambda reference, _: Dpo(DpoSection(beta=2.0, nll=0.3), reference),
    "orpo": lambda *_: Orpo(OrpoSection(beta=3.0)),
    "cpo": lambda *_: Cpo(CpoSection(beta=2.0)),
    "simpo": lambda *_: Simpo(SimpoSection(beta=20.0, nll=0.3)),
    "reward": lambda _, model: Reward(RewardSection(centring=0.05), scoring(model), (0.5, 0.0, 9.0, -3.0)),
    "grpo": lambda reference, _: Grpo(
        GrpoSection(num_generations=2, max_completion_length=64, loss_type=GrpoLoss.GRPO),
        RolloutTable(reference.values, np.arange(8) != 5),
    ),
    "kto": lambda reference, _: Kto(KtoSection(beta=2.0), reference, np.arange(8) % 2 == 0),
}
"""Settings and references under which losses are large, and the gradients of a step's rows cancel."""


def scoring(model: CausalLM) -> ScoreHead:
    """A head that gives scores of 10 and more, which counts among the model's parameters."""
    draws = torch.Generator().manual_seed(3)
    head = ScoreHead(torch.randn(1, model.spec.hidden_size, dtype=torch.float64, generator=draws) * 1.25)
    model.add_module("score", head)
    return head


@pytest.mark.parametrize("name", EXTREME)
def test_splits_of_a_step_differ_by_the_rounding_of_its_dtype_alone(
    name: str, tiny_model: Path, tmp_path: Path
) -> None:
    answers, model = pair_rows(tiny_model, write_rows(tmp_path / "pairs.jsonl", pairs(4))).train, wide_model(tiny_model)
    with torch.no_grad():
        policy = np.array([float(answer_logps(model, answer).sum()) for answer in answers])
    reference = ReferenceTable(policy + np.random.default_rng(4).normal(scale=15.0, size=len(answers)))
    over: StepObjective = OverModel(model, EXTREME[name](reference, model))
    if name == "kto":
        partners = Partners.among(answers, seed=0)
        assert isinstance(over, OverModel)
        over = WithReferencePoint(over, partners, dict.fromkeys(partners.of(range(8)), -90.0))
    together = 1 if name in ("kto", "grpo") else 2
    assert_splits_differ_by_rounding_alone(model, over, answers, together=together)


EVERY = {
    "sft": (),
    "pretraining": (),
    "dpo": ("dpo.nll=0.3",),
    "orpo": (),
    "cpo": (),
    "simpo": ("simpo.nll=0.3",),
    "kto": ("train.examples_per_step=22",),
    "reward": ("method=lora", "reward.centring=0.1"),
    "grpo": ("grpo.num_generations=3", "grpo.max_completion_length=8", "rewards=[{metric: chrf, column: good}]"),
    "distillation": ("distillation.divergence=reverse", "distillation.nll=0.2"),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("objective", EVERY)
def test_lanes_and_micro_batches_leave_the_gradient_of_a_step(objective: str, tiny_model: Path, tmp_path: Path) -> None:
    file = write_rows(tmp_path / "rows.jsonl", rows_for(objective))
    settings = [f"objective={objective}", "method=full", *GRADIENT, *EVERY[objective]]
    if objective == "distillation":
        settings.append(f"distillation.teacher={write_model(tmp_path / 'teacher', seed=9, hidden=96)}")

    def after(lanes: int, most: int) -> dict[str, Tensor]:
        output = tmp_path / f"{lanes} {most}"
        cut = (f"train.lanes={lanes}", f"compute.micro_batch_tokens={most}")
        train(run_config(tiny_model, file, output, *settings, *cut))
        (weights,) = RunFolder(output).weights.values()
        return load_file(weights)

    whole, start = after(1, 4096), load_file(tiny_model / "model.safetensors")
    learned = {name: (whole[name] - start[name]).abs().max() for name in whole if name in start}
    assert objective == "reward" or max(learned.values()) > 1e-3
    for lanes, most in ((1, 100), (4, 4096), (4, 30)):
        found = after(lanes, most)
        for name, tensor in whole.items():
            largest = max(1.0, float(learned.get(name, 0.0)))
            assert float((found[name] - tensor).abs().max()) < 1e-6 * largest, (lanes, most, name)
