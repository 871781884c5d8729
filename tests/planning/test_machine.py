from __future__ import annotations

import pytest
import torch

from helpers.training.plan_setups import setup
from veneer.config import ComputeSection
from veneer.enums import Dtype
from veneer.errors import ConfigError
from veneer.planning.machine import named_machine, this_machine
from veneer.planning.memory import MB
from veneer.planning.time import CARDS


@pytest.mark.parametrize("name", CARDS)
def test_a_card_is_known_by_its_data_sheet_and_measures_nothing(name: str) -> None:
    found = named_machine(name, ComputeSection())
    assert (found.device, found.memory, found.dtype) == ("cuda", CARDS[name].memory, CARDS[name].dtype)
    assert found.dtype is (torch.float16 if name == "t4" else torch.bfloat16)
    rate = found.rate(setup())
    assert not rate.measured
    assert rate.flops == CARDS[name].flops
    for dtype in (Dtype.FLOAT32, Dtype.FLOAT16, Dtype.BFLOAT16):
        assert str(named_machine(name, ComputeSection(dtype=dtype)).dtype) == f"torch.{dtype.value}"


def test_this_machine_is_under_the_settings_of_the_run() -> None:
    compute = ComputeSection(dtype=Dtype.FLOAT32, threads=3)
    found = named_machine("cpu", compute)
    assert (found.device, found.memory, found.dtype, found.threads) == ("cpu", None, torch.float32, 3)
    assert found == this_machine(torch.device("cpu"), compute)
    assert named_machine("cpu", ComputeSection()).threads == torch.get_num_threads()
    assert found.start() > 50 * MB, "what this process takes"


@pytest.mark.parametrize("name", ["h1000", "cuda:x", ""])
def test_what_is_neither_device_nor_card_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="known: auto"):
        named_machine(name, ComputeSection())
