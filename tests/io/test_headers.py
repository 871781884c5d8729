"""Names that stand twice in a header are seen, in files of models and of adapters."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from veneer.errors import ModelError
from veneer.io.checkpoint import open_checkpoint
from veneer.io.headers import repeated_names, tensor_names

ENTRY = '{"dtype":"F32","shape":[2],"data_offsets":[0,8]}'


def twice(path: Path) -> Path:
    """A file with one tensor under one name, which stands twice: the library reads it and says nothing."""
    header = f'{{"a":{ENTRY},"b\\u0061":{ENTRY},"a":{ENTRY}}}'.encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + struct.pack("<2f", 1.0, 2.0))
    return path


def test_repeated_names_are_found(tmp_path: Path) -> None:
    assert repeated_names(twice(tmp_path / "x.safetensors")) == ["a"]
    save_file({"a": torch.ones(2), "b": torch.ones(3)}, tmp_path / "y.safetensors", metadata={"a": "b"})
    assert repeated_names(tmp_path / "y.safetensors") == []
    assert sorted(tensor_names(tmp_path / "y.safetensors")) == ["a", "b"]


def test_a_damaged_header_names_nothing(tmp_path: Path) -> None:
    for number, content in enumerate((b"", b"\x02", struct.pack("<Q", 2) + b"[]", struct.pack("<Q", 1 << 60) + b"{}")):
        file = tmp_path / f"{number}.safetensors"
        file.write_bytes(content)
        assert tensor_names(file) == []
        assert repeated_names(file) == []


@pytest.mark.parametrize("content", [b"", b"\xff" * 8, b"\x08" + b"\0" * 7 + b"{]", struct.pack("<Q", 9) + b"[" * 9])
def test_damage_is_left_to_the_library(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(content)
    assert repeated_names(tmp_path / "x") == []


def test_a_model_with_a_tensor_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}', encoding="utf-8")
    header = f'{{"a":{ENTRY},"a":{ENTRY}}}'.encode()
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + struct.pack("<2f", 1, 2))
    with pytest.raises(ModelError, match=r"(?s)has tensors twice in its header.*- a"):
        open_checkpoint(tmp_path)
