from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from helpers.models.tiny import run_config
from helpers.tensors import assert_same_tensors
from helpers.training.training_runs import built
from veneer.enums import Method
from veneer.events import Event, StageEnded, ignore
from veneer.model.decoder import CausalLM
from veneer.quant.packed import PackedLinear
from veneer.training.run_inputs import prepare_run
from veneer.training.trainable import AdapterTraining, FullTraining


@pytest.mark.parametrize("method", Method)
def test_the_base_is_held_as_the_method_says_and_only_the_right_part_trains(
    method: Method, tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    inputs = prepare_run(run_config(tiny_model, tiny_data, tmp_path / "run", f"method={method.value}"), ignore)
    events: list[Event] = []
    model, trainable = built(inputs, events.append)
    assert isinstance(model, CausalLM)
    packed = [module for module in model.modules() if isinstance(module, PackedLinear)]
    assert len(packed) == (14 if method is Method.QLORA else 0)
    assert isinstance(trainable, FullTraining if method is Method.FULL else AdapterTraining)
    trained = {id(parameter) for parameter in trainable.named().values()}
    assert {id(p) for p in model.parameters() if p.requires_grad} == trained
    assert any(isinstance(event, StageEnded) for event in events)
    stored = load_file(tiny_model / "model.safetensors")["model.embed_tokens.weight"]
    assert torch.equal(model.model.embed_tokens.weight, stored)


def test_the_same_seed_starts_the_same_adapter(tiny_model: Path, tiny_data: Path, tmp_path: Path) -> None:
    def started(seed: int) -> dict[str, torch.Tensor]:
        config = run_config(tiny_model, tiny_data, tmp_path / "run", f"train.seed={seed}")
        return {name: p.detach() for name, p in built(prepare_run(config, ignore))[1].named().items()}

    one, again, other = started(1), started(1), started(2)
    assert_same_tensors(one, again)
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_eva_starts_in_the_directions_of_the_runs_own_rows(tiny_model: Path, tiny_data: Path, tmp_path: Path) -> None:
    """A is orthonormal rows, which a random start is not, and the update is zero."""
    config = run_config(tiny_model, tiny_data, tmp_path / "run", "lora.init=eva")
    _, trainable = built(prepare_run(config, ignore))
    assert isinstance(trainable, AdapterTraining)
    for update in trainable.adapter.updates().values():
        a = update.lora_A.detach()
        gram = a @ a.t()
        assert torch.allclose(gram, torch.eye(len(a)) * gram[0, 0], atol=1e-3 * float(gram[0, 0]))
        assert not update.lora_B.any()
