"""The writer's file is read by gguf, and holds what was planned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
import transformers as hf

from helpers.gguf.models import SIZES
from veneer.errors import ModelError, OutputError
from veneer.io.gguf.encode import Quant
from veneer.io.gguf.model import write_model as write
from veneer.io.gguf.writer import GgufWriter, Planned
from veneer.io.tokenizer import from_directory


def test_the_writer_is_read_by_gguf(tmp_path: Path) -> None:
    values: Any = {
        "general.architecture": "llama", "a.flag": True, "a.count": 7, "a.number": 0.5, "a.text": "grüße",
        "a.list": [1, -2], "a.texts": ["x", ""], "a.none": [], "a.flags": [True, False], "a.numbers": [0.5],
    }  # fmt: skip
    tensors = [Planned("x", (3,), gguf.GGMLQuantizationType.F32), Planned("y", (2, 32), gguf.GGMLQuantizationType.Q8_0)]
    data = np.arange(68, dtype=np.uint8)
    with GgufWriter(tmp_path / "f.gguf", values, tensors) as file:
        file.write("y", data[34:], 34)
        file.write("x", np.arange(3, dtype=np.float32).view(np.uint8))
        file.write("y", data[:34])
    reader = gguf.GGUFReader(str(tmp_path / "f.gguf"))
    assert {name: reader.fields[name].contents() for name in values} == values
    assert np.array_equal(reader.tensors[0].data, [0, 1, 2])
    assert np.array_equal(reader.tensors[1].data.reshape(-1), data)


def test_every_tensor_begins_at_a_multiple_of_the_alignment(tmp_path: Path) -> None:
    """gguf reads any place; llama.cpp refuses the file."""
    sizes = {"a": 3, "b": 8, "c": 9, "d": 1}
    plan = [Planned(name, (size,), gguf.GGMLQuantizationType.F32) for name, size in sizes.items()]
    with GgufWriter(tmp_path / "f.gguf", {"general.architecture": "llama"}, plan) as file:
        for name, size in sizes.items():
            file.write(name, np.full(size, size, np.float32).view(np.uint8))
    reader = gguf.GGUFReader(str(tmp_path / "f.gguf"))
    assert [tensor.data_offset % reader.alignment for tensor in reader.tensors] == [0] * 4
    assert [tensor.data.tolist() for tensor in reader.tensors] == [[size] * size for size in sizes.values()]
    assert (tmp_path / "f.gguf").stat().st_size % reader.alignment == 0


PLAN = [Planned("x", (3,), gguf.GGMLQuantizationType.F32)]


def test_a_file_without_a_planned_tensor_is_refused(tmp_path: Path) -> None:
    with (
        pytest.raises(OutputError, match=r"(?s)planned but not written.*x: 12 bytes"),
        GgufWriter(tmp_path / "a", {}, PLAN),
    ):
        pass


@pytest.mark.parametrize(("name", "size", "at"), [("x", 16, 0), ("x", 4, 12), ("y", 4, 0)])
def test_bytes_that_were_not_planned_are_refused(name: str, size: int, at: int, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="were not planned"), GgufWriter(tmp_path / "b", {}, PLAN) as file:
        file.write(name, np.zeros(size, np.uint8), at)


def test_bytes_that_are_written_twice_are_refused(tmp_path: Path) -> None:
    """In parts, bytes of one place would be counted for those of another that are missing."""
    with GgufWriter(tmp_path / "b", {}, PLAN) as file:
        file.write("x", np.zeros(12, np.uint8))
        with pytest.raises(OutputError, match="8 bytes of x at 4"):
            file.write("x", np.zeros(8, np.uint8), 4)


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ([], "lacks tensors"),
        ([("model.layers.0.extra", torch.zeros(3))], r"no place for model\.layers\.0\.extra"),
        ([("model.embed_tokens.weight", torch.zeros(3))], r"embed_tokens\.weight is \[3\]"),
    ],
    ids=["missing", "strange", "misshapen"],
)
def test_a_model_of_other_tensors_is_refused(
    tensors: list[tuple[str, torch.Tensor]], said: str, tokenizer: Path, tmp_path: Path
) -> None:
    config = hf.LlamaConfig(**SIZES).to_dict()
    with pytest.raises(ModelError, match=said):
        write(tmp_path / "c", config, from_directory(tokenizer), tensors, Quant.F32)
