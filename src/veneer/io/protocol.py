"""`Checkpoint`: the interface of a model's files in any format."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from veneer.io.prequantised import StoredFormat, StoredWeight
from veneer.io.tokenizer import Tokenizer
from veneer.native.stored import Format


@dataclass(frozen=True, slots=True)
class BlockTensor:
    """A matrix in blocks of a GGUF file."""

    format: Format
    read: Callable[[], torch.Tensor]
    """Copies the blocks to the CPU, uint8 `[out, bytes of a row]`. Raises ModelError if a scale is not finite."""


class Checkpoint(Protocol):
    """The files of one model: configuration, tensors by Hugging Face name, tokenizer.

    Tensors are read one at a time.
    """

    source: str
    """Directory, hub id or file that the user gave, for messages and adapter_config.json."""
    config: Mapping[str, Any]
    """Content of config.json. For GGUF it is made from the metadata."""
    generation_config: Mapping[str, Any]
    """Content of generation_config.json. Without this file, and for GGUF, it has the tokens that end an answer, or is
    empty."""
    stored: Mapping[str, StoredFormat]
    """Formats of the weights that bitsandbytes has quantised, by name. `names` contains them, and `shape` gives the
    shape of the decoded weight. `read` refuses them; `read_stored` returns codes and scales. (Weights in fp8 or MXFP4
    are not among them: `read` decodes them.)"""
    blocks: Mapping[str, BlockTensor]
    """Matrices in blocks of a GGUF file which kernels can read, by name; empty for other files. `read` decodes them."""

    def names(self) -> list[str]:
        """Hugging Face names of all tensors."""
        ...

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of one tensor, row-major. Raises ModelError for an unknown name."""
        ...

    def read(self, name: str, dtype: torch.dtype) -> torch.Tensor:
        """One tensor in `dtype`, fresh, contiguous and writable on the CPU. Raises ModelError if it cannot be read."""
        ...

    def read_stored(self, name: str) -> StoredWeight:
        """Codes and scales of a weight in `stored`, copied to the CPU. Raises ModelError for another name."""
        ...

    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer. Raises ModelError if it is missing or damaged."""
        ...

    def files(self) -> list[Path]:
        """All files of the model, for digests."""
        ...


class SlicedCheckpoint(Checkpoint, Protocol):
    """Files from which one entry of a tensor can be read."""

    def read_entry(self, name: str, index: int, dtype: torch.dtype) -> torch.Tensor:
        """One entry along a tensor's first dimension, in `dtype`. Only this entry is read."""
        ...
