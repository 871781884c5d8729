"""A step is its rows, whatever the cut: its gradients are those of transformers and PEFT."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from torch import nn
from transformers import LlamaForCausalLM

from helpers.models.tiny import examples
from helpers.training.fixed_steps import CUTS, Cut, SmallMemory, adapted, full
from helpers.training.mean_losses import mean_loss
from veneer.data.encoded.chat import Example
from veneer.data.micro_batches.packing import pack
from veneer.model.decoder import CausalLM
from veneer.training.memory_use.out_of_memory import MemoryFault
from veneer.training.objectives.base import Means, StepObjective
from veneer.training.over_model import OverModel
from veneer.training.parallel.lanes import Signalled
from veneer.training.passes import Passes
from veneer.training.trainable import Trainable


@pytest.fixture(scope="module")
def eight(tiny_model: Path, tiny_data: Path) -> list[Example]:
    found = examples(tiny_model, tiny_data)[:8]
    assert len({len(example.tokens) for example in found}) > 3  # of different lengths, as the claim is about
    return found


def passes_of(
    model: CausalLM, trainable: Trainable, source: Cut, objective: StepObjective | None = None
) -> tuple[Passes, list[nn.Parameter]]:
    model.train()
    passes = Passes(trainable=trainable, objective=objective or OverModel(model), source=source, seed=3)
    return passes, list(trainable.named().values())


def gradients_of(trainable: Trainable) -> dict[str, torch.Tensor]:
    return {name: p.grad for name, p in trainable.named().items() if p.grad is not None}


def go_on() -> bool:
    return False


# ------------------------------------------------------------------------------------------------------ the invariance


def by_transformers(model: nn.Module, rows: list[Example]) -> float:
    """A step's loss by its definition, a row at a time; gradients are left on the parameters."""
    total = sum(int(row.loss_mask.sum()) for row in rows)
    loss = 0.0
    for row in rows:
        tokens = torch.tensor(row.tokens, dtype=torch.int64)[None]
        logits = model(input_ids=tokens).logits[0, :-1].double()
        taken = torch.tensor(row.loss_mask[1:])
        losses = nn.functional.cross_entropy(logits[taken], tokens[0, 1:][taken], reduction="sum") / total
        losses.backward()
        loss += float(losses.detach())
    return loss


def assert_close(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    scale = max(float(tensor.abs().max()) for tensor in expected.values())
    assert scale > 1e-3
    for name, tensor in expected.items():
        assert float((found[name] - tensor).abs().max()) <= 1e-5 * max(1.0, scale), name


@pytest.mark.parametrize("cut", CUTS)
def test_a_step_of_the_whole_model_is_transformers_step_whatever_the_cut(
    cut: str, eight: list[Example], tiny_model: Path, tmp_path: Path
) -> None:
    model, trainable = full(tiny_model)
    passes, parameters = passes_of(model, trainable, CUTS[cut](eight))
    means = passes.gradients(passes.prepare(1, None, 1), parameters, go_on)
    assert isinstance(means, Means)
    reference = LlamaForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    loss = by_transformers(reference, eight)
    assert means.loss == pytest.approx(loss, abs=1e-5)
    expected = {name: p.grad for name, p in reference.named_parameters() if p.grad is not None}
    assert_close(gradients_of(trainable), expected)


@pytest.mark.parametrize("cut", CUTS)
def test_a_step_of_an_adapter_is_pefts_step_whatever_the_cut(
    cut: str, eight: list[Example], tiny_model: Path, tmp_path: Path
) -> None:
    model, trainable = adapted(tiny_model)
    (tmp_path / "adapter").mkdir()
    trainable.save(tmp_path / "adapter", {})
    passes, parameters = passes_of(model, trainable, CUTS[cut](eight))
    means = passes.gradients(passes.prepare(1, None, 1), parameters, go_on)
    assert isinstance(means, Means)
    base = LlamaForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    reference = PeftModel.from_pretrained(base, tmp_path / "adapter", is_trainable=True)
    loss = by_transformers(reference, eight)
    assert means.loss == pytest.approx(loss, abs=1e-5)
    expected = {
        name.removeprefix("base_model.model.").replace(".default", ""): p.grad
        for name, p in reference.named_parameters()
        if p.grad is not None
    }
    assert_close(gradients_of(trainable), expected)


def test_a_mean_of_means_would_be_caught(eight: list[Example], tiny_model: Path) -> None:
    # The rows must tell the right weighting from the wrong one, or the tests above prove nothing.
    model, _ = adapted(tiny_model)
    batches = [pack([row], 10**6)[0] for row in eight]
    means = sum(float(OverModel(model).sums(batch).total.detach()) / batch.supervised for batch in batches) / len(
        batches
    )
    assert abs(means - mean_loss(model, batches)) > 1e-4


# -------------------------------------------------------------------------------------------------- what keeps from it


def test_a_step_is_given_up_before_the_next_micro_batch(eight: list[Example], tiny_model: Path) -> None:
    passes, parameters = passes_of(*adapted(tiny_model), CUTS["8x1"](eight))
    step = passes.prepare(1, None, 1)
    for computed in range(len(step.batches)):
        answers = iter([False] * computed + [True])
        assert isinstance(passes.gradients(step, parameters, answers.__next__), Signalled)
        assert list(answers) == []
    assert isinstance(passes.gradients(step, parameters, go_on), Means)


@pytest.mark.parametrize("late", [False, True])
def test_the_micro_batch_that_does_not_fit_is_told(late: bool, eight: list[Example], tiny_model: Path) -> None:
    model, trainable = adapted(tiny_model)
    source = CUTS["8x1"](eight)
    largest = max(len(batch.tokens) for batch in source.lanes(1)[0])
    objective = SmallMemory(OverModel(model), largest - 1, late)
    passes, parameters = passes_of(model, trainable, source, objective)
    step = passes.prepare(1, None, 1)
    found = passes.gradients(step, parameters, go_on)
    assert isinstance(found, MemoryFault)
    assert found.batch is next(batch for batch in step.batches if len(batch.tokens) == largest)
    for batch in step.batches:
        tried = passes.rehearse(batch)
        assert (None if tried is None else tried.batch) is (batch if len(batch.tokens) == largest else None)


def test_the_largest_micro_batch_is_told_where_what_comes_before_all_does_not_fit(
    eight: list[Example], tiny_model: Path
) -> None:
    model, trainable = adapted(tiny_model)
    source = CUTS["8x1"](eight)
    largest = max(len(batch.tokens) for batch in source.lanes(1)[0])
    objective = SmallMemory(OverModel(model), largest - 1, before=True)
    passes, parameters = passes_of(model, trainable, source, objective)
    found = passes.gradients(passes.prepare(1, None, 1), parameters, go_on)
    assert isinstance(found, MemoryFault)
    assert len(found.batch.tokens) == largest
    assert all(parameter.grad is None for parameter in parameters)


def test_micro_batches_get_smaller_and_losses_are_multiplied(eight: list[Example], tiny_model: Path) -> None:
    model, trainable = adapted(tiny_model)
    passes, parameters = passes_of(model, trainable, Cut([eight]))
    whole = passes.gradients(passes.prepare(1, None, 1), parameters, go_on)
    plain = {name: gradient.clone() for name, gradient in gradients_of(trainable).items()}
    for parameter in parameters:
        parameter.grad = None
    step = passes.prepare(1, 100, 1024)
    assert len(step.batches) > 1
    scaled = passes.gradients(step, parameters, go_on)
    assert isinstance(whole, Means)
    assert isinstance(scaled, Means)
    assert scaled.loss == pytest.approx(whole.loss, abs=1e-5)
    assert_close({name: gradient / 1024 for name, gradient in gradients_of(trainable).items()}, plain)


def test_a_step_has_the_draws_of_its_number_whatever_was_computed_before(
    eight: list[Example], tiny_model: Path
) -> None:
    passes, parameters = passes_of(*adapted(tiny_model, dropout=0.3), CUTS["2x4"](eight))

    def loss(number: int) -> float:
        found = passes.gradients(passes.prepare(number, None, 1), parameters, go_on)
        assert isinstance(found, Means)
        return found.loss

    first = loss(1)
    passes.rehearse(passes.prepare(1, None, 1).batches[0])
    assert loss(2) != first
    assert loss(1) == first
