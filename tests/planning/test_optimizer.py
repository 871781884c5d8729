from __future__ import annotations

import pytest
import torch

from helpers.training.plan_setups import setup
from helpers.training.tiny_parameters import LARGE, parameters, set_gradients
from veneer.config import TrainSection
from veneer.enums import OptimizerName
from veneer.planning.optimizer import in_8_bits, parameter_bytes, state_bytes
from veneer.training.optimizers.choose import make_optimizer


@pytest.mark.parametrize("name", OptimizerName)
def test_the_state_of_each_tensor_is_what_the_optimiser_holds_of_it(name: OptimizerName) -> None:
    for key, shape in LARGE.items():
        named = parameters({key: shape})
        section = TrainSection.model_validate({"optimizer": name.value, "learning_rate": 0.01})
        optimizer = make_optimizer(named, section, 0.01, torch.device("cpu"))
        set_gradients(1, named)
        optimizer.step(0.01)
        held = sum(tensor.nbytes for tensor in optimizer.tensors().values())
        assert parameter_bytes(name, key, shape) == held, key


def test_tables_and_small_tensors_stay_in_float32() -> None:
    assert in_8_bits("a", (64, 64))
    assert not in_8_bits("a", (64, 63))
    assert not in_8_bits("model.embed_tokens.weight", (64, 64))


@pytest.mark.parametrize("name", OptimizerName)
def test_the_whole_state_is_the_sum_of_its_parts(name: OptimizerName) -> None:
    of = setup(optimizer=name)
    assert state_bytes(of) == sum(parameter_bytes(name, key, shape) for key, shape in of.trained)
    assert state_bytes(of) > 0
