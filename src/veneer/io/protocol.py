"""What the rest asks of a model's files, whatever their format."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch

from veneer.io.prequantised import StoredFormat, StoredWeight
from veneer.io.tokenizer import Tokenizer


class Checkpoint(Protocol):
    """One model's files: configuration, tensors by Hugging Face name, tokenizer. Tensors are read one at a time."""

    source: str
    """What the user named (directory, hub id or file), for messages and adapter_config."""
    config: Mapping[str, Any]
    """Hugging Face config.json content (made from the metadata for GGUF)."""
    generation_config: Mapping[str, Any]
    """generation_config.json, or empty."""
    stored: Mapping[str, StoredFormat]
    """The weights that the files hold quantised by bitsandbytes, by name. They stand in `names` and have the shape of
    what they decode to; `read` refuses them, `read_stored` hands out their parts. (Weights in fp8 or MXFP4 are read as
    what they decode to, like any other.)"""

    def names(self) -> list[str]:
        """Hugging Face names of all tensors."""
        ...

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of one tensor, row-major. Raises ModelError for an unknown name."""
        ...

    def read(self, name: str, dtype: torch.dtype) -> torch.Tensor:
        """A fresh, contiguous, writable CPU tensor in `dtype`. Raises ModelError where it cannot be read."""
        ...

    def read_stored(self, name: str) -> StoredWeight:
        """The parts of one of `stored`, copied to the CPU as they are. Raises ModelError for another name."""
        ...

    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer. Raises ModelError where it is missing or damaged."""
        ...

    def files(self) -> list[Path]:
        """Every file that was read, for digests."""
        ...


class SlicedCheckpoint(Checkpoint, Protocol):
    """Files of which a part of a tensor can be read."""

    def read_entry(self, name: str, index: int, dtype: torch.dtype) -> torch.Tensor:
        """One entry of a tensor's first dimension, as `read` gives the whole; nothing else of it is read."""
        ...
