"""Checkpoints that are watched, damaged and rewritten, and the layers of models that were loaded."""

from __future__ import annotations

import json
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from veneer.config import QuantSection
from veneer.io.checkpoint import Checkpoint, open_checkpoint
from veneer.io.gguf.encode import Quant
from veneer.io.gguf.model import needed, write_model
from veneer.io.prequantised import StoredFormat, StoredWeight, parts_of
from veneer.io.protocol import BlockTensor
from veneer.io.tokenizer import Tokenizer, from_directory
from veneer.model.decoder import CausalLM
from veneer.model.leaves import DenseLinear
from veneer.quant.packed import PackedLinear
from veneer.quant.schemes import pack
from veneer.quantization import stored_weight


@dataclass
class Watched:
    """A checkpoint that notes what is read, and how many bytes of it are alive at each read."""

    inner: Checkpoint
    reads: list[str] = field(default_factory=list)
    alive_bytes: list[int] = field(default_factory=list)
    _alive: list[weakref.ref[Tensor]] = field(default_factory=list)

    @property
    def source(self) -> str:
        return self.inner.source

    @property
    def config(self) -> Mapping[str, Any]:
        return self.inner.config

    @property
    def stored(self) -> Mapping[str, StoredFormat]:
        return self.inner.stored

    @property
    def blocks(self) -> Mapping[str, BlockTensor]:
        return self.inner.blocks

    def read_stored(self, name: str) -> StoredWeight:
        return self.inner.read_stored(name)

    @property
    def generation_config(self) -> Mapping[str, Any]:
        return self.inner.generation_config

    def names(self) -> list[str]:
        return self.inner.names()

    def shape(self, name: str) -> tuple[int, ...]:
        return self.inner.shape(name)

    def read(self, name: str, dtype: torch.dtype) -> Tensor:
        tensor = self.inner.read(name, dtype)
        self.reads.append(name)
        self._alive.append(weakref.ref(tensor))
        living = [reference() for reference in self._alive]
        self.alive_bytes.append(sum(one.nbytes for one in living if one is not None and one.ndim == 2))
        return tensor

    def tokenizer(self) -> Tokenizer:
        return self.inner.tokenizer()

    def files(self) -> list[Path]:
        return self.inner.files()


def rewrite(path: Path, **changes: Any) -> Checkpoint:
    """The model directory `path` with other settings in its config.json."""
    config = json.loads((path / "config.json").read_text()) | changes
    (path / "config.json").write_text(json.dumps(config))
    return open_checkpoint(path)


def retensor(path: Path, changes: dict[str, Tensor | None]) -> Checkpoint:
    """The model directory `path` with tensors put in or (None) taken out."""
    tensors: dict[str, Tensor | None] = {**load_file(path / "model.safetensors"), **changes}
    save_file({name: t for name, t in tensors.items() if t is not None}, path / "model.safetensors")
    return open_checkpoint(path)


def packed(path: Path, *names: str) -> Checkpoint:
    """The model directory `path` with some matrices as bitsandbytes stores them in 4 bits."""
    held = load_file(path / "model.safetensors")
    parts: dict[str, Tensor | None] = {}
    for name in names:
        parts |= parts_of(name, stored_weight(pack(held[name], None, QuantSection())), torch.float32)
    return retensor(path, parts)


def linears(model: CausalLM) -> dict[str, torch.nn.Module]:
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, DenseLinear | PackedLinear) and name != "lm_head"
    }


LINEAR = "model.layers.0.mlp.up_proj"


def sixteen_bits(folder: Path, dtype: torch.dtype) -> Path:
    """The tiny chat model with 16 bits a weight."""
    tensors = {name: tensor.to(dtype) for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["dtype"] = str(dtype).removeprefix("torch.")
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def in_blocks(path: Path, folder: Path, kind: str) -> Path:
    """The GGUF file of a model directory, its matrices in one format; the tokenizer goes with it."""
    checkpoint, file = open_checkpoint(path), folder / f"{kind}.gguf"
    tensors = ((name, checkpoint.read(name, torch.float32)) for name in needed(checkpoint.config))
    write_model(file, checkpoint.config, from_directory(path), tensors, Quant(kind))
    return file
