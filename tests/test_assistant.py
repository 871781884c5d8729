"""A model that answers: prompts of a file, and what is said where the memory is full."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tiny import run_config
from veneer import assistant
from veneer.assistant import AssistantRequest, lines_of, load_assistant, open_assistant, turns
from veneer.config import ComputeSection
from veneer.enums import Dtype
from veneer.errors import OutOfMemory
from veneer.generation.sampling import Sampling
from veneer.io.checkpoint import open_checkpoint
from veneer.loading.forms import WeightForm
from veneer.loading.load import load_model
from veneer.quant.packed import PackedLinear
from veneer.training.run import train


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


@pytest.mark.parametrize(("trained", "asked"), [("float32", "bfloat16"), ("bfloat16", "float32")])
def test_an_adapter_has_the_quantised_base_of_its_training_whatever_is_computed_in(
    trained: str, asked: str, tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    """The files are float32, so that rounding them to bfloat16 first gives other codes."""
    settings = ("method=qlora", "train.steps=1", "lora.rank=2")
    run = train(run_config(tiny_model, tiny_data, tmp_path / "run", *settings, f"compute.dtype={trained}"))
    request = AssistantRequest(model=str(tiny_model), adapter=run.output, compute=ComputeSection(dtype=Dtype(asked)))
    model = load_assistant(request).model
    assert model.dtype == getattr(torch, asked)
    before = load_model(open_checkpoint(tiny_model), form=WeightForm.QUANTIZED, dtype=getattr(torch, trained))
    layers = {name: part for name, part in before.named_modules() if isinstance(part, PackedLinear)}
    assert layers
    for name, layer in layers.items():
        held = next(part for part in model.get_submodule(name).modules() if isinstance(part, PackedLinear))
        assert torch.equal(held.dequantize(torch.float32), layer.dequantize(torch.float32))
