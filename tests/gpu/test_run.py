"""Whole runs on each kind of device that this machine has: on a CPU always, on a card where there is one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from helpers.models.tiny import rows, run_config, write_model, write_rows
from veneer.errors import Interrupted
from veneer.events import Event, StepDone
from veneer.training.run import train

CARD = pytest.mark.skipif(not torch.cuda.is_available(), reason="no card")
DEVICES = ["cpu", pytest.param("cuda", marks=CARD)]
STEPS = 6


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("inputs")
    return write_model(folder / "model"), write_rows(folder / "rows.jsonl", rows(12))


def trained(
    inputs: tuple[Path, Path], output: Path, device: str, *assignments: str, resume: bool = False, stop_after: int = 0
) -> list[float]:
    """Train; the losses of the steps that were made."""
    losses: list[float] = []

    def note(event: Event) -> None:
        if isinstance(event, StepDone):
            losses.append(event.loss)

    config = run_config(
        *inputs, output, f"compute.device={device}", "compute.dtype=auto", "compute.deterministic=true",
        f"train.steps={STEPS}", *assignments,
    )  # fmt: skip
    try:
        train(config, resume=resume, emit=note, stop=lambda: 0 < stop_after <= len(losses))
    except Interrupted:
        assert stop_after
    return losses


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("method", "recompute"),
    [
        ("lora", "never"), ("qlora", "layers"), pytest.param("qlora", "never", marks=pytest.mark.slow),
        pytest.param("full", "layers", marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_a_run_learns_and_a_resumed_one_has_its_bytes(
    method: str, recompute: str, device: str, inputs: tuple[Path, Path], tmp_path: Path
) -> None:
    settings = (f"method={method}", f"compute.recompute={recompute}")
    whole = trained(inputs, tmp_path / "whole", device, *settings)
    assert len(whole) == STEPS
    assert whole[-1] < whole[0]
    begun = trained(inputs, tmp_path / "resumed", device, *settings, stop_after=3)
    rest = trained(inputs, tmp_path / "resumed", device, *settings, resume=True)
    assert begun + rest == whole
    names = [file.name for file in (tmp_path / "whole").glob("*.safetensors")]
    assert names
    for name in names:
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "resumed" / name).read_bytes()


@CARD
@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_a_card_computes_what_the_cpu_computes(method: str, inputs: tuple[Path, Path], tmp_path: Path) -> None:
    settings = (f"method={method}", "compute.dtype=float32")
    found, expected = (trained(inputs, tmp_path / device, device, *settings) for device in ("cuda", "cpu"))
    assert found == pytest.approx(expected, rel=1e-3)
