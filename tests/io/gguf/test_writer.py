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


def test_missing_and_unplanned_tensors_are_refused(tokenizer: Path, tmp_path: Path) -> None:
    plan = [Planned("x", (3,), gguf.GGMLQuantizationType.F32)]
    with (
        pytest.raises(OutputError, match=r"(?s)planned but not written.*x: 12 bytes"),
        GgufWriter(tmp_path / "a", {}, plan),
    ):
        pass
    with pytest.raises(OutputError, match="were not planned"), GgufWriter(tmp_path / "b", {}, plan) as file:
        file.write("x", np.zeros(16, np.uint8))
    config = hf.LlamaConfig(**SIZES).to_dict()
    known = from_directory(tokenizer)
    with pytest.raises(ModelError, match="lacks tensors"):
        write(tmp_path / "c", config, known, [], Quant.F32)
    with pytest.raises(ModelError, match=r"no place for model\.layers\.0\.extra"):
        write(tmp_path / "d", config, known, [("model.layers.0.extra", torch.zeros(3))], Quant.F32)
    with pytest.raises(ModelError, match=r"embed_tokens\.weight is \[3\]"):
        write(tmp_path / "e", config, known, [("model.embed_tokens.weight", torch.zeros(3))], Quant.F32)
