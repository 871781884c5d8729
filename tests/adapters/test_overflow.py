"""A finite adapter whose products are not is refused by every verb that computes with it, and the update is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from helpers.models.tiny import run_config
from helpers.processes.invoking import FLOAT32, refused
from veneer.adapters.load import load_adapter
from veneer.adapters.overflow import LARGEST_FLOAT32, check_updates, largest_update
from veneer.errors import AdapterError
from veneer.io.checkpoint import open_checkpoint
from veneer.loading.load import load_model
from veneer.training.run import train

LAYER = "model.layers.1.mlp.up_proj"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, tiny_data: Path) -> Path:
    output = tmp_path_factory.mktemp("overflow") / "run"
    return train(run_config(tiny_model, tiny_data, output, "train.steps=1")).output


def damaged(run: Path, folder: Path, a: float, b: float, layer: str = LAYER) -> Path:
    """The adapter without its record, and one update's factors all of one value."""
    folder.mkdir()
    tensors = load_file(run / "adapter_model.safetensors")
    for factor, value in (("A", a), ("B", b)):
        tensors[f"base_model.model.{layer}.lora_{factor}.weight"].fill_(value)
    save_file(tensors, folder / "adapter_model.safetensors")
    for name in ("adapter_config.json", "base_model.json"):
        (folder / name).write_bytes((run / name).read_bytes())
    return folder


@pytest.mark.parametrize("seed", range(30))
def test_the_bound_never_passes_an_overflow_and_the_product_decides(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    size = 10.0 ** (18.5 + float(torch.rand((), generator=generator)))
    a = size * torch.randn(3, 7, generator=generator)
    b = size * torch.randn(5, 3, generator=generator)
    scale = float(torch.rand((), generator=generator)) - 0.5
    overflows = float((scale * (b.double() @ a.double())).abs().max()) > LARGEST_FLOAT32
    tensors = {"x.lora_A.weight": a, "x.lora_B.weight": b}
    if overflows:
        with pytest.raises(AdapterError, match=r"x\.lora_B\.weight: B · A times"):
            check_updates(tensors, lambda path: scale, "the adapter")
    else:
        check_updates(tensors, lambda path: scale, "the adapter")


def test_products_that_overflow_are_refused_by_every_verb(
    run: Path, tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    adapter = damaged(run, tmp_path / "adapter", 1e25, 1e25)
    asked = ("--model", tiny_model, "--adapter", adapter)
    commands: list[tuple[object, ...]] = [
        ("evaluate", *asked, "--data", tiny_data, *FLOAT32),
        ("generate", *asked, "--prompt", "hi", *FLOAT32),
        ("combine", "--adapter", adapter, "--output", tmp_path / "out"),
    ]
    for kind in ("peft", "merged", "merged-4bit", "gguf", "gguf-adapter"):
        commands.append(("export", *asked, "--to", kind, "--data", tiny_data, "--output", tmp_path / "out"))
    for command in commands:
        message = refused(*command)
        assert f"{LAYER}.lora_B.weight: B · A times 2 reaches 8e+50" in message, command
        assert not (tmp_path / "out").exists()


def test_logits_that_overflow_are_an_error_that_names_the_largest_update(
    run: Path, tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    # Every product is finite; what one layer makes of the other's outputs is not.
    damaged(run, tmp_path / "once", 1e18, 1e18)
    adapter = damaged(tmp_path / "once", tmp_path / "adapter", 1e18, 2e18, "model.layers.1.mlp.down_proj")
    asked = ("--model", tiny_model, "--adapter", adapter)
    for command in (
        ("evaluate", *asked, "--data", tiny_data, *FLOAT32),
        ("export", *asked, "--to", "peft", "--data", tiny_data, "--output", tmp_path / "out"),
        ("export", *asked, "--to", "merged", "--data", tiny_data, "--output", tmp_path / "out"),
    ):
        message = refused(*command)
        assert "NaN or infinite" in message, message
        assert "model.layers.1.mlp.down_proj.lora_B.weight" in message
        assert not (tmp_path / "out").exists()


def test_the_largest_update_is_named(run: Path, tiny_model: Path, tmp_path: Path) -> None:
    adapter = damaged(run, tmp_path / "adapter", 10.0, 10.0)
    model = load_model(open_checkpoint(tiny_model))
    text = largest_update(load_adapter(model, adapter))
    assert f"{LAYER}.lora_B.weight" in text
    assert json.loads((adapter / "adapter_config.json").read_text())["r"] == 4
    assert "800" in text  # 2 · 4 · 10 · 10
