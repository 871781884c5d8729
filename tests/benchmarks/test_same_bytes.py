"""The comparison of two commits: what it covers, that it sees a difference, and that equal programs are the same."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from veneer.enums import Method

ROOT = Path(__file__).parents[2]
# Scripts, not a package.
sys.path.insert(0, str(ROOT / "benchmarks"))
try:
    import same_bytes
finally:
    sys.path.remove(str(ROOT / "benchmarks"))


def test_the_cases_are_those_that_were_promised() -> None:
    runs = same_bytes.RUNS.values()
    assert len(runs) >= 12
    assert {run.method for run in runs} == {method.value for method in Method}
    assert {run.model for run in runs} >= {"llama", "mixture", "neox"}
    words = " ".join(word for run in runs for word in run.settings)
    for setting in ("backend=hf", "variant=dora", "scaling=rslora", "init=pissa", "lora.dropout=", "recompute=layers"):
        assert setting in words
    kinds = {options[1] for _, options in same_bytes.EXPORTS.values()}
    assert kinds >= {"merged", "gguf"}
    named = {run for run, _ in same_bytes.EXPORTS.values()} | {*same_bytes.KILLED, *same_bytes.REOPENED}
    assert named <= set(same_bytes.RUNS)


def write_weights(folder: Path, *, changed: float = 0.0) -> Path:
    tensors = {"a": torch.ones(3), "b": torch.arange(4.0)}
    tensors["b"][2] += changed
    (folder / "checkpoints").mkdir(parents=True)
    save_file(tensors, str(folder / "model.safetensors"))
    save_file(tensors, str(folder / "checkpoints" / "model.safetensors"))
    (folder / "model.gguf").write_bytes(b"GGUF")
    return folder


def test_weight_files_are_compared_byte_for_byte(tmp_path: Path) -> None:
    one, same, other = (write_weights(tmp_path / n, changed=c) for n, c in (("1", 0.0), ("2", 0.0), ("3", 0.25)))
    assert same_bytes.compared("case", one, same).good()
    found = same_bytes.compared("case", one, other)
    assert (found.verdict, found.detail) == ("differs", "model.safetensors: 1 of 2 tensors, b by 0.25")
    (same / "model.gguf").write_bytes(b"GGUG")
    assert same_bytes.compared("case", one, same).detail == "model.gguf: other bytes"
    (same / "model.gguf").unlink()
    assert not same_bytes.compared("case", one, same).good()


def test_a_folder_without_weights_is_no_success(tmp_path: Path) -> None:
    assert not same_bytes.compared("case", tmp_path, tmp_path).good()


@pytest.mark.slow
def test_a_checkout_is_the_same_as_itself_and_not_as_one_that_clips_more(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cases = ["--only", "lora", "--only", "evaluate-lora"]
    assert same_bytes.main([str(ROOT), str(ROOT), *cases]) == 0
    shutil.copytree(ROOT / "src", tmp_path / "src")
    config = tmp_path / "src" / "veneer" / "config" / "train.py"
    before, after = config.read_text(encoding="utf-8").split("    clip: ")
    config.write_text(f"{before}    clip: {after.replace('= 1.0', '= 0.01', 1)}", encoding="utf-8")
    capsys.readouterr()
    assert same_bytes.main([str(ROOT), str(tmp_path), *cases]) == 1
    assert "lora                             differs  adapter_model.safetensors: " in capsys.readouterr().out
