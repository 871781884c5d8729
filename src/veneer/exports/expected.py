"""The expected model of an export: its settings come from the base and the adapter, not from the export's files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from veneer.assistant.assistant import Assistant, make_assistant
from veneer.backends.load import load_language_model
from veneer.enums import Backend
from veneer.errors import ModelError
from veneer.exports.tensors import Tensors
from veneer.io.prequantised import CONFIG_KEY, StoredFormat, StoredWeight
from veneer.io.protocol import BlockTensor
from veneer.io.tokenizer import Tokenizer
from veneer.loading.forms import WeightForm
from veneer.loading.how import Loading


@dataclass(slots=True)
class ExpectedCheckpoint:
    """A checkpoint without files (`veneer.io.protocol.Checkpoint`): the settings that an export should have, with given
    tensors. It is not quantised: quantised values are returned decoded."""

    config: Mapping[str, Any]
    generation_config: Mapping[str, Any]
    tensors: Tensors
    vocabulary: Tokenizer
    source: str = "the export as it should be"
    stored: Mapping[str, StoredFormat] = field(default_factory=dict)
    blocks: Mapping[str, BlockTensor] = field(default_factory=dict)

    def names(self) -> list[str]:
        """Hugging Face names of all tensors."""
        return self.tensors.names()

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of one tensor, row-major. Raises ModelError for an unknown name."""
        return self.tensors.shape(name)

    def read(self, name: str, dtype: torch.dtype) -> Tensor:
        """One tensor in `dtype`. Raises ModelError for an unknown name."""
        return self.tensors.read(name, dtype)

    def read_stored(self, name: str) -> StoredWeight:
        """Always raises ModelError, because nothing is stored quantised."""
        raise ModelError(f"{name} is not stored quantised")

    def tokenizer(self) -> Tokenizer:
        """The tokenizer of base and adapter."""
        return self.vocabulary

    def files(self) -> list[Path]:
        """No file."""
        return []


def dense_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config.json without the form in which weights are stored."""
    return {key: value for key, value in config.items() if key != CONFIG_KEY}


def model_of(expected: ExpectedCheckpoint, device: torch.device, backend: Backend = Backend.AUTO) -> Assistant:
    """The expected model in float32, ready to be asked."""
    model = load_language_model(expected, backend, Loading(form=WeightForm.FROZEN, dtype=torch.float32, device=device))
    model.requires_grad_(False).eval()
    return make_assistant(model, expected, None)
