"""The reference of sampled answers: the base, or the weights as the run started, laid in the policy's place."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.models.tiny import run_config, write_rows
from helpers.tensors import assert_same_tensors
from helpers.training.training_runs import built
from veneer.config import GrpoSection
from veneer.data.encoded.chat import Example
from veneer.data.micro_batches.packing import pack
from veneer.events import ignore
from veneer.model.language import LanguageModel
from veneer.processes.group import Alone
from veneer.training.objectives.grpo import Grpo
from veneer.training.rollouts.objective import SampledObjective, as_reference_of, laid_in
from veneer.training.rollouts.table import RolloutTable
from veneer.training.run_inputs import prepare_run
from veneer.training.trainable import Trainable

ANSWERS = [Example(np.array([5, 6, 7 + n, 9, 10], dtype=np.int32), np.arange(5) >= 2, "f") for n in range(4)]


@pytest.fixture(params=["float32", "bfloat16", "float16"])
def started(request: pytest.FixtureRequest, tiny_model: Path, tmp_path: Path) -> tuple[LanguageModel, Trainable]:
    """A model with an adapter whose update is not zero; in 16 bits its factors are kept rounded."""
    file = write_rows(tmp_path / "rows.jsonl", [{"prompt": "a?"}] * 4)
    settings = ("objective=grpo", "rewards=[{metric: exact}]", f"compute.dtype={request.param}")
    config = run_config(tiny_model, file, tmp_path / "run", *settings)
    model, trainable = built(prepare_run(config, ignore))
    move(trainable, 0.1)
    return model, trainable


def move(trainable: Trainable, size: float) -> None:
    source = torch.Generator().manual_seed(int(size * 1000))
    with torch.no_grad():
        for parameter in trainable.named().values():
            parameter.add_(torch.randn(parameter.shape, generator=source) * size)
    trainable.changed()


def prepared(model: LanguageModel, trainable: Trainable, table: RolloutTable, *, started: bool, moved: float = 0.0,
             **settings: object) -> RolloutTable:  # fmt: skip
    section = GrpoSection.model_validate({"num_generations": 2, **settings})
    objective = SampledObjective(model, Grpo(section, table), as_reference_of(section, trainable, started), Alone())
    move(trainable, moved)
    objective.prepared(pack(ANSWERS, 8))
    return table


def fresh() -> RolloutTable:
    return RolloutTable(advantages=np.zeros(4), counted=np.ones(4, dtype=np.bool_), rewards=np.arange(4.0))


def test_the_reference_is_the_start_and_the_policy_is_what_it_was(started: tuple[LanguageModel, Trainable]) -> None:
    model, trainable = started
    own = prepared(model, trainable, fresh(), started=True, beta=0.1, num_iterations=2)
    assert own.old is not None
    assert own.reference is not None
    np.testing.assert_array_equal(np.concatenate(own.old), np.concatenate(own.reference))
    later = prepared(model, trainable, fresh(), started=True, moved=0.05, beta=0.1, num_iterations=2)
    assert later.old is not None
    assert later.reference is not None
    np.testing.assert_array_equal(np.concatenate(later.reference), np.concatenate(own.reference))
    assert np.abs(np.concatenate(later.old) - np.concatenate(own.old)).max() > 1e-3
    base = prepared(model, trainable, fresh(), started=True, beta=0.1, reference="base")
    assert base.old is None, "answers that serve one step have the policy's own"
    assert base.reference is not None
    assert np.abs(np.concatenate(base.reference) - np.concatenate(own.reference)).max() > 1e-3


def test_nothing_is_computed_where_nothing_is_compared(started: tuple[LanguageModel, Trainable]) -> None:
    table = prepared(*started, fresh(), started=True)
    assert table.old is table.reference is None


def test_the_divergence_is_taken_off_rewards_before_advantages(started: tuple[LanguageModel, Trainable]) -> None:
    model, trainable = started
    table = prepared(
        model, trainable, fresh(), started=True, beta=0.5, reference="base", kl_in="reward",
        baseline="leave_one_out", scale_rewards="none",
    )  # fmt: skip
    assert table.old is not None
    assert table.reference is not None
    less = [
        float(reward) - 0.5 * float((old - reference).sum())
        for reward, old, reference in zip(table.rewards, table.old, table.reference, strict=True)
    ]
    expected = [less[0] - less[1], less[1] - less[0], less[2] - less[3], less[3] - less[2]]
    assert table.advantages.tolist() == pytest.approx(expected)


def test_weights_come_back_also_where_something_fails(started: tuple[LanguageModel, Trainable]) -> None:
    _, trainable = started
    before = {name: tensor.detach().clone() for name, tensor in trainable.named().items()}
    zeros = {name: torch.zeros_like(tensor) for name, tensor in before.items()}

    def fail() -> None:
        with laid_in(trainable, zeros):
            assert not any(bool(tensor.any()) for tensor in trainable.named().values())
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert_same_tensors(trainable.named(), before)
