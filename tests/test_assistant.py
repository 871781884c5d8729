"""A model that answers: prompts of a file, and what is said where the memory is full."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from veneer import assistant
from veneer.assistant import lines_of, open_assistant, turns
from veneer.config import ComputeSection
from veneer.enums import Dtype
from veneer.errors import OutOfMemory
from veneer.generation.sampling import Sampling


def test_lines_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "q").write_bytes("\ufeffa\r\nb b\u2028c\n\n \n d".encode())
    assert list(lines_of(tmp_path / "q")) == ["a", "b b\u2028c", " d"]


def full(*arguments: object, **options: object) -> None:
    torch.empty(1 << 58)


@pytest.mark.scenario(number=20)
def test_without_memory_the_plan_says_what_takes_less(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compute = ComputeSection(device="cpu", dtype=Dtype.FLOAT32)
    loaded = open_assistant(str(tiny_model), compute=compute)
    advice = r"There was this much: .*By the plan, the weights of .* MB\. They take less with .*--method qlora \("
    monkeypatch.setattr(assistant, "generate", full)
    for ask in (
        lambda: loaded.stream(turns(None, "Hi"), Sampling(), print),
        lambda: loaded.answers([turns(None, "Hi")], Sampling()),
    ):
        with pytest.raises(OutOfMemory, match=f"out of memory while answering .*{advice}.*--max-new-tokens"):
            ask()
    monkeypatch.setattr(assistant, "load_language_model", full)
    with pytest.raises(OutOfMemory, match=f"out of memory while loading .*{advice}"):
        open_assistant(str(tiny_model), compute=compute)
