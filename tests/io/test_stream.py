"""A safetensors file written tensor by tensor."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from veneer.errors import OutputError
from veneer.io.stream import TensorWriter


def test_the_file_is_what_safetensors_reads(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    tensors = {
        "a.weight": torch.randn(3, 5),
        "b": torch.randn(7).to(torch.bfloat16),
        "c": torch.tensor(2.5, dtype=torch.float16),
        "d": torch.randint(0, 255, (4, 1), dtype=torch.uint8),
        "e": torch.empty(0, 3),
        "ümlaut": torch.randn(5, 3).T,
    }
    with TensorWriter(path, [*tensors, "announced only"], {"format": "pt"}) as file:
        for name, tensor in tensors.items():
            file.write(name, tensor)
    found = load_file(path)
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with TensorWriter(tmp_path / "a", ["x"], {}) as file:
        file.write("x", torch.zeros(2))
        with pytest.raises(OutputError, match="x was written already"):
            file.write("x", torch.zeros(2))
        with pytest.raises(OutputError, match="complex64"):
            file.write("y", torch.zeros(2, dtype=torch.complex64))
    crowded = TensorWriter(tmp_path / "b", [], {})
    with pytest.raises(OutputError, match="header takes"), crowded as file:
        file.write("never announced", torch.zeros(2))
    with pytest.raises(OutputError, match="cannot be written"), TensorWriter(tmp_path / "absent" / "c", [], {}):
        pass
