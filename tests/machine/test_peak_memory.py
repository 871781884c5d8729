from __future__ import annotations

import resource

import pytest
import torch

from veneer.machine import peak_memory as memory
from veneer.machine.peak_memory import peak_memory_mb


def test_the_peak_of_a_process_never_falls_and_is_the_systems() -> None:
    before = peak_memory_mb(torch.device("cpu"))
    held = torch.ones(40_000_000)
    after = peak_memory_mb(torch.device("cpu"))
    del held
    assert peak_memory_mb(torch.device("cpu")) >= after >= max(before, 160)
    assert after == pytest.approx(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6, rel=0.05)


def test_on_a_card_it_is_what_torch_has_taken_from_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory.torch.cuda, "max_memory_reserved", lambda device: 2_500_000 + device.index)
    assert peak_memory_mb(torch.device("cuda:1")) == pytest.approx(2.500001)
