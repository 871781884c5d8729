"""A loaded run holds its weights and gradients as its memory plan decided."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from torch import Tensor

from helpers.models.tiny import run_config, write_model
from helpers.training.training_runs import built
from veneer.events import ignore
from veneer.model.decoder import CausalLM
from veneer.model.leaves import HostEmbedding
from veneer.planning.plan import Plan
from veneer.processes.group import Alone
from veneer.quant.packed import PackedLinear
from veneer.training.memory_use.as_planned import as_planned
from veneer.training.run_inputs import prepare_run


def planned(method: str, folder: Path, data: Path, **memory: int) -> tuple[CausalLM, Plan]:
    """A model, and its plan with these bytes in place of those that it has."""
    config = run_config(write_model(folder / "model", tied=False), data, folder / "run", f"method={method}")
    inputs = prepare_run(config, ignore)
    model, plan = built(inputs)[0], inputs.prepared.plan
    assert isinstance(model, CausalLM)
    assert plan is not None
    return model, replace(plan, choice=replace(plan.choice, memory=replace(plan.choice.memory, **memory)))


def test_decoded_weights_are_kept_within_the_block(tiny_data: Path, tmp_path: Path) -> None:
    model, plan = planned("qlora", tmp_path, tiny_data, decoded=10**9)
    layers = [layer for layer in model.modules() if isinstance(layer, PackedLinear)]
    with as_planned(model, (), plan, Alone(), pytest.fail):
        assert all(layer.keeps_decoded for layer in layers)
    assert not any(layer.keeps_decoded for layer in layers)


def test_a_hosted_embedding_stays_in_the_main_memory(tiny_data: Path, tmp_path: Path) -> None:
    model, plan = planned("lora", tmp_path, tiny_data, hosted=1)
    with as_planned(model, (), plan, Alone(), pytest.fail):
        assert isinstance(model.embedding, HostEmbedding)
    assert isinstance(model.embedding, HostEmbedding)


@pytest.mark.parametrize("kept", [0, 1])
def test_gradients_keep_their_places_if_that_is_planned(kept: int, tiny_data: Path, tmp_path: Path) -> None:
    model, plan = planned("full", tmp_path, tiny_data, gradients_kept=kept)
    weight, gradients = model.model.norm.weight, list[Tensor]()
    with as_planned(model, [weight], plan, Alone(), pytest.fail):
        for _ in range(2):
            weight.grad = None
            weight.sum().backward()
            assert weight.grad is not None
            gradients.append(weight.grad)  # both are alive, so that only the plan can give them one place
    assert (gradients[0].data_ptr() == gradients[1].data_ptr()) == bool(kept)


def test_nothing_is_decided_without_a_plan(tiny_data: Path, tmp_path: Path) -> None:
    model, _ = planned("qlora", tmp_path, tiny_data)
    embedding = model.embedding
    with as_planned(model, model.parameters(), None, Alone(), pytest.fail):
        assert model.embedding is embedding
        assert not any(layer.keeps_decoded for layer in model.modules() if isinstance(layer, PackedLinear))
