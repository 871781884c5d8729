"""Tensors in parts as files: what is written is read back, whole or in parts, or refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from helpers.tensors import assert_same_tensors
from veneer.errors import CheckpointError, OutputError
from veneer.processes.group import Alone
from veneer.training.parallel import part_files
from veneer.training.parallel.part_files import read_parts, whole_tensors, write_parts


def tensors() -> dict[str, torch.Tensor]:
    source = torch.Generator().manual_seed(3)
    found = {
        name: torch.randn(shape, generator=source) for name, shape in (("a", (5, 3)), ("b.c", (7,)), ("d", (1, 2)))
    }
    return {**found, "a/step": torch.tensor(4.0)}


def test_what_one_process_writes_is_read_back(tmp_path: Path) -> None:
    # With several processes: test_shards.py.
    written = tensors()
    write_parts(tmp_path, written, Alone())
    read = {name: torch.zeros_like(tensor) for name, tensor in written.items()}
    read_parts(tmp_path, read)
    assert_same_tensors(read, written)
    shapes = {name: tuple(tensor.shape) for name, tensor in written.items()}
    assert_same_tensors(dict(whole_tensors(tmp_path, shapes)), written)
    assert [file.suffix for file in tmp_path.iterdir()] == [".safetensors"]  # and no pickle


def test_large_tensors_come_in_several_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(part_files, "AT_ONCE", 40)
    written = tensors()
    write_parts(tmp_path, written, Alone())
    assert len(list(tmp_path.iterdir())) == 2
    shapes = {name: tuple(tensor.shape) for name, tensor in written.items()}
    assert_same_tensors(dict(whole_tensors(tmp_path, shapes)), written)


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    write_parts(tmp_path, tensors(), Alone())
    for wrong in ({"e": torch.zeros(2)}, {"a": torch.zeros(5, 4)}):
        with pytest.raises(CheckpointError, match="does not fit this run"):
            read_parts(tmp_path, wrong)
    with pytest.raises(CheckpointError, match="does not fit this run"):
        read_parts(tmp_path / "nowhere", tensors())


def test_a_folder_that_a_process_does_not_see_is_named_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="on a disk that all hosts share"):
        write_parts(tmp_path / "elsewhere", tensors(), Alone())
