"""What of benchmarks/gpu.py can be true without a card: its arithmetic, its refusal, and a step on the CPU."""

from __future__ import annotations

import importlib
import json
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from veneer.loading.expected import expected_tensors
from veneer.model.families.choose import spec_from_hf

FOLDER = Path(__file__).parents[2] / "benchmarks"
PARTS = ("gpu", "gpu_engine", "gpu_graphs", "gpu_kernels", "gpu_packed", "gpu_peers", "gpu_profile", "gpu_shapes")


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
def test_the_steps_of_a_random_model_lower_its_loss(quantized: bool) -> None:
    shapes = module("gpu_shapes")
    spec = spec_from_hf(shapes._config(64, 96, 2, 4, 2, 200, False))
    step = module("gpu").veneer_step(spec, quantized, torch.device("cpu"), 2048)(2048)
    losses = [step() for _ in range(3)]
    assert losses[0] == pytest.approx(math.log(200), rel=0.2)
    assert losses[2] < losses[0]


@pytest.fixture
def tiny_checkpoint(tmp_path: Path) -> tuple[Any, Path]:
    """A model as `--part checkpoint` writes it in a dry run, and its shape."""
    config = module("gpu_shapes").TINY
    folder = tmp_path / "model"
    folder.mkdir()
    module("gpu_peers").write_checkpoint(config, folder, torch.device("cpu"))
    return spec_from_hf(config), folder


def test_the_part_of_answers_counts_tokens(tiny_checkpoint: tuple[Any, Path]) -> None:
    _, folder = tiny_checkpoint
    assert module("gpu_engine").answer_seconds(folder, "cpu", "qlora", 2, 3) > 0


def test_a_kernel_that_fails_does_not_hide_the_others(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kernels = module("gpu_kernels")

    def broken(dtype: torch.dtype, device: torch.device) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        raise RuntimeError("an illegal memory access")

    def right(dtype: torch.dtype, device: torch.device) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        return [torch.ones(3, dtype=dtype)], [torch.ones(3)]

    monkeypatch.setattr(kernels, "kernel_cases", lambda device: {"a": right, "b": broken, "c": right})
    assert not kernels.run_kernels(torch.device("cpu"))
    out = capsys.readouterr().out
    assert out.count("0.0e+00") == 4
    assert out.count("failed!") == 2
    assert "RuntimeError: an illegal memory access" in out


def part(code: str, minutes: float = 1.0, *, show_errors: bool = False) -> Any:
    return module("gpu").run_in_process("part", [sys.executable, "-c", code], minutes, show_errors=show_errors)


def test_a_part_that_fails_or_hangs_keeps_what_it_has_printed(capsys: pytest.CaptureFixture[str]) -> None:
    good = part("print('one'); print('two')")
    assert (good.status, good.lines) == (0, ["one", "two"])
    failed = part("import sys; print('one'); sys.exit('the reason')")
    assert failed.status == 1
    assert failed.lines == ["one", "the reason", "part: failed (exit status 1)"]
    hung = part("import time; print('one', flush=True); time.sleep(60)", 0.02)
    assert hung.status is None
    assert hung.lines == ["one", "part: stopped, 0.02 minutes are over"]
    assert hung.seconds < 30
    out = capsys.readouterr().out
    assert out.splitlines() == [*good.lines, *failed.lines, *hung.lines]


@pytest.mark.slow
def test_a_dry_run_goes_through_every_part_and_writes_what_it_found(tmp_path: Path) -> None:
    file = tmp_path / "found.json"
    command = [sys.executable, str(FOLDER / "gpu.py"), "--dry-run", "--json", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(file.read_text(encoding="utf-8"))
    assert found["size"] == "dry run"
    parts = {one["part"]: one for one in found["parts"]}
    assert list(parts)[:11] == [
        "kernels", "packed", "veneer", "graphs", "profile", "checkpoint", "lora", "qlora", "resume", "default",
        "answers",
    ]  # fmt: skip
    assert {one["status"] for one in parts.values()} == {0}
    assert parts["kernels"]["lines"][-1] == "all within four roundings"
    assert [line[:2] for line in parts["packed"]["lines"]] == [" 1", "16"]
    assert len(parts["veneer"]["lines"]) == len(parts["graphs"]["lines"]) == 4
    for method in ("lora", "qlora"):
        lines = parts[method]["lines"]
        assert [line.split("  ")[0] for line in lines] == [f"{method}, kept", f"{method}, recomputed"] * 2
        assert all("(plan " in line for line in lines)
        # One and two documents of 62 numbers, with a token at their end.
        assert [int(line[34:41].replace(",", "")) for line in lines] == [63, 63, 126, 126]
    for part, mode in (("resume", "deterministic"), ("default", "default")):
        assert parts[part]["lines"] == [f"{mode:14} made again: equal bytes; resumed: equal bytes"]
    assert len(parts["answers"]["lines"]) == 4


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


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["--part", "lora"], "--part lora needs --folder"),
        (["--part", "lora", "--folder", "."], "has no checkpoint; --part checkpoint writes one there"),
        (["--minutes", "0"], "--minutes is 0; it must be above 0"),
        (["--size", "3b"], "invalid choice: '3b'"),
        (["--part", "engine"], "invalid choice: 'engine'"),
    ],
)
def test_arguments_that_cannot_be_are_refused_before_anything_runs(
    argv: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        module("gpu").main(["--dry-run", *argv])
    assert end.value.code == 2
    assert told in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_its_help_names_the_sizes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        module("gpu").main(["--help"])
    assert end.value.code == 0
    assert "--size {135m,1b,8b}" in capsys.readouterr().out
