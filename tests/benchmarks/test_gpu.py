"""What of benchmarks/gpu.py can be true without a card: its arithmetic, its refusal, and a step on the CPU."""

from __future__ import annotations

import importlib
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from veneer.load import expected_tensors
from veneer.model.spec import spec_from_hf

FOLDER = Path(__file__).parents[2] / "benchmarks"
PARTS = ("gpu", "gpu_engine", "gpu_kernels", "gpu_peers", "gpu_profile", "gpu_shapes")


@pytest.fixture(autouse=True)
def _search_benchmarks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(FOLDER)
    yield
    for name in PARTS:
        sys.modules.pop(name, None)


def module(name: str) -> Any:
    return importlib.import_module(name)


def test_an_8b_step_takes_the_known_number_of_operations() -> None:
    shapes = module("gpu_shapes")
    spec = spec_from_hf(shapes.SIZES["8b"])
    assert shapes.flops_per_token(spec, 16, 2048) == pytest.approx(32.15e9, rel=1e-3)
    # 4 for each of the 7,504,658,432 frozen weights that are multiplied (all but the embedding and the norms).
    assert shapes.flops_per_token(spec, 0, 0) == 4 * 7_504_658_432


@pytest.mark.parametrize("size", ["135m", "1b", "8b"])
def test_the_matrices_counted_are_those_of_the_model(size: str) -> None:
    shapes = module("gpu_shapes")
    spec = spec_from_hf(shapes.SIZES[size])
    tensors = expected_tensors(spec)
    for name, (wide, tall) in shapes.matrix_sizes(spec).items():
        (shape,) = {s for path, s in tensors.items() if path.endswith(f"{name}.weight")}
        assert shape == (tall, wide)


def test_the_peak_of_a_card_is_found_by_its_name() -> None:
    peak = module("gpu_shapes").peak_tflops
    assert peak("NVIDIA H100 80GB HBM3") == 989
    assert peak("NVIDIA H100 PCIe") == 756
    assert peak("NVIDIA L40S") == 362
    assert peak("NVIDIA L4") == 121
    assert peak("NVIDIA A100-SXM4-80GB") == 312
    assert peak("some other card") is None


def test_a_row_shows_rate_utilisation_and_memory() -> None:
    row = module("gpu_shapes").row
    line = row("veneer", "LoRA", 2048, 0.25, 20 * 2**30, 32.15e9, 989.0)
    assert line.split() == ["veneer", "LoRA", "2,048", "250.0", "ms", "8,192", "26.6%", "20.0", "GiB"]
    assert " - " in row("veneer", "LoRA", 2048, 0.25, 0, 32.15e9, None)


def test_an_error_that_is_no_number_is_infinite() -> None:
    error = module("gpu_kernels").largest_error
    ones = torch.ones(3)
    assert error([ones * 1.5], [ones]) == 0.5
    assert error([ones, ones * math.nan], [ones, ones]) == math.inf


@pytest.mark.parametrize("quantized", [False, True])
def test_a_step_trains(quantized: bool) -> None:
    shapes = module("gpu_shapes")
    spec = spec_from_hf(shapes._config(64, 96, 2, 4, 2, 200, False))
    step = module("gpu").veneer_step(spec, quantized, torch.device("cpu"))(2048)
    losses = [step() for _ in range(3)]
    assert losses[0] == pytest.approx(math.log(200), rel=0.2)
    assert losses[2] < losses[0]


@pytest.fixture
def tiny_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Path]:
    """A model as `--part checkpoint` writes it, and its shape; documents have 64 tokens."""
    shapes = module("gpu_shapes")
    monkeypatch.setattr(shapes, "DOCUMENT", 64)
    config = shapes._config(64, 96, 2, 4, 2, 200, False)
    folder = tmp_path / "model"
    folder.mkdir()
    module("gpu_peers").write_checkpoint(config, folder, torch.device("cpu"))
    return spec_from_hf(config), folder


@pytest.mark.slow
def test_the_engines_part_trains_and_compares_memory_with_the_plan(
    tiny_checkpoint: tuple[Any, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec, folder = tiny_checkpoint
    module("gpu_engine").run_steps(spec, folder, tmp_path, "cpu", None, tokens=(128,))
    lines = [line for line in capsys.readouterr().out.splitlines() if "before the first step" in line]
    assert [line.split("  ")[0] for line in lines] == [
        "lora, kept", "lora, recomputed", "qlora, kept", "qlora, recomputed",
    ]  # fmt: skip
    assert all("(plan " in line for line in lines)
    # Two documents of 62 numbers, with a token at their end.
    assert {int(line[34:41].replace(",", "")) for line in lines} == {126}


@pytest.mark.slow
def test_the_part_of_bytes_compares_runs(
    tiny_checkpoint: tuple[Any, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec, folder = tiny_checkpoint
    assert module("gpu_engine").run_resume(spec, folder, tmp_path, "cpu", numbers=16)
    lines = capsys.readouterr().out.splitlines()
    expected = "made again: equal bytes; resumed: equal bytes"
    assert [line for line in lines if "made again" in line] == [
        f"{m:14} {expected}" for m in ("deterministic", "default")
    ]


def test_the_part_of_answers_counts_tokens(tiny_checkpoint: tuple[Any, Path]) -> None:
    _, folder = tiny_checkpoint
    assert module("gpu_engine").answer_seconds(folder, "cpu", "qlora", 2, 3) > 0


@pytest.mark.slow
def test_every_kernels_case_is_right_where_torch_computes(capsys: pytest.CaptureFixture[str]) -> None:
    kernels = module("gpu_kernels")
    cases = kernels.kernel_cases(torch.device("cpu"))
    names = ("GeGLU", "RMS norm around one 4096", "product with an update", "gradient of a factor")
    for name in names:
        torch.manual_seed(0)
        found, expected = cases[name](torch.float16, torch.device("cpu"))
        assert kernels.largest_error(found, expected) < 4 * torch.finfo(torch.float16).eps, name


def test_a_peer_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    peers = module("gpu_peers")
    monkeypatch.setattr(peers, "find_spec", lambda name: None if name in ("trl", "unsloth") else object())
    assert peers.missing("peft") == ["trl"]
    assert peers.missing("unsloth") == ["unsloth", "trl"]


def test_without_a_card_it_says_so_in_one_line() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a card")
    done = subprocess.run([sys.executable, str(FOLDER / "gpu.py")], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == f"benchmarks/gpu.py needs a CUDA device; torch {torch.__version__} sees none\n"


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        module("gpu").main(["--help"])
    assert end.value.code == 0
    assert "--size {135m,1b,8b}" in capsys.readouterr().out
