"""Where the memory is full, what is said names what takes less."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from veneer.assistant import assistant, load
from veneer.assistant.load import open_assistant
from veneer.assistant.memory import enough_memory
from veneer.assistant.prompts import turns
from veneer.config import ComputeSection
from veneer.enums import Dtype
from veneer.errors import OutOfMemory
from veneer.generation.sampling import Sampling


def full(*arguments: object, **options: object) -> None:
    torch.empty(1 << 58)


@pytest.mark.scenario(number=20)
def test_without_memory_the_plan_says_what_takes_less(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compute = ComputeSection(device="cpu", dtype=Dtype.FLOAT32)
    loaded = open_assistant(str(tiny_model), compute=compute)
    advice = r"There was this much: .*By the plan, the weights of .* MB\. They need less with .*--method qlora \("
    monkeypatch.setattr(assistant, "generate", full)
    for ask in (
        lambda: loaded.stream(turns(None, "Hi"), Sampling(), print),
        lambda: loaded.answers([turns(None, "Hi")], Sampling()),
    ):
        with pytest.raises(OutOfMemory, match=f"out of memory while answering .*{advice}.*--max-new-tokens"):
            ask()
    monkeypatch.setattr(load, "load_language_model", full)
    with pytest.raises(OutOfMemory, match=f"out of memory while loading .*{advice}"):
        open_assistant(str(tiny_model), compute=compute)


def test_errors_that_are_no_want_of_memory_pass_as_they_are() -> None:
    with pytest.raises(RuntimeError, match=r"^shapes do not fit$"), enough_memory(None, "answering"):
        raise RuntimeError("shapes do not fit")
    with pytest.raises(OutOfMemory, match=r"out of memory while answering .* Ask less\.$"):  # noqa: SIM117
        with enough_memory(None, "answering", "Ask less."):
            full()
