"""The part of a model that is trained: an adapter beside a frozen base, or the whole model. The engine sees no
difference."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from veneer.adapters.adapter import Adapter
from veneer.adapters.files.store import read_tensors, save_adapter
from veneer.errors import CheckpointError
from veneer.finite import all_finite
from veneer.io.checkpoint import Checkpoint, open_checkpoint
from veneer.io.model_files import save_model
from veneer.io.tokenizer import Tokenizer
from veneer.model.decoder import CausalLM


class Trainable(Protocol):
    """The part of a model that changes."""

    def named(self) -> dict[str, nn.Parameter]:
        """The trainable parameters by a stable name."""
        ...

    @property
    def numbers(self) -> int:
        """The number of trained numbers, over all processes."""
        ...

    def seed_step(self, seed: int) -> None:
        """Start the random draws of a step (dropout), so that a resumed run draws the same numbers."""
        ...

    def changed(self) -> None:
        """Called when the weights have changed."""
        ...

    def generator(self) -> torch.Generator | None:
        """The source of those draws, if there are any."""
        ...

    def save(self, directory: Path, base: Mapping[str, str]) -> None:
        """Write the files of the result into an existing folder.

        Args:
            directory: the folder.
            base: the SHA-256 of the base model's files, by name; empty if they are not known.
        """
        ...

    def restore(self, directory: Path) -> None:
        """Load the weights from files that `save` wrote."""
        ...


@dataclass(slots=True)
class AdapterTraining:
    """LoRA and QLoRA: the adapter is trained; the files are PEFT's."""

    adapter: Adapter
    base: str
    revision: str | None = None
    tokenizer: Tokenizer | None = None
    """A tokenizer that knows more tokens than the base's, to be saved with the adapter; else None."""

    def named(self) -> dict[str, nn.Parameter]:
        """A and B of every layer, and whatever else is trained."""
        return self.adapter.named_parameters()

    @property
    def numbers(self) -> int:
        """See `Trainable`."""
        return sum(parameter.numel() for parameter in self.named().values())

    def seed_step(self, seed: int) -> None:
        """Seed the dropout masks."""
        self.adapter.generator.manual_seed(seed)

    def changed(self) -> None:
        """Round the factors again, if they are kept rounded."""
        self.adapter.round_again()

    def generator(self) -> torch.Generator | None:
        """The generator of the adapter."""
        return self.adapter.generator

    def save(self, directory: Path, base: Mapping[str, str]) -> None:
        """Write `adapter_config.json`, `adapter_model.safetensors` and `base_model.json`."""
        save_adapter(directory, self.adapter, base=self.base, revision=self.revision, base_files=base)
        if self.tokenizer is not None:
            self.tokenizer.save(directory)

    def restore(self, directory: Path) -> None:
        """Read `adapter_model.safetensors`."""
        self.adapter.load(read_tensors(directory))


@dataclass(slots=True)
class FullTraining:
    """Full fine-tuning: every parameter is trained; the files are a Hugging Face directory."""

    model: CausalLM
    origin: Checkpoint

    def named(self) -> dict[str, nn.Parameter]:
        """Every parameter; a shared one (a tied head) occurs once."""
        return dict(self.model.named_parameters())

    @property
    def numbers(self) -> int:
        """See `Trainable`."""
        return sum(parameter.numel() for parameter in self.named().values())

    def seed_step(self, seed: int) -> None:
        """Nothing to do: the decoder has no dropout, so no random numbers are drawn."""

    def changed(self) -> None:
        """Nothing to do: nothing is derived from the weights."""

    def generator(self) -> None:
        """None: no random numbers are drawn."""

    def save(self, directory: Path, base: Mapping[str, str]) -> None:
        """Write configuration, weights in float32 and tokenizer."""
        tensors: dict[str, Tensor] = {name: parameter.detach() for name, parameter in self.named().items()}
        refuse_broken(tensors)
        save_model(directory, tensors, self.origin)

    def restore(self, directory: Path) -> None:
        """Read the weights back."""
        files = open_checkpoint(directory)
        for name, parameter in self.named().items():
            parameter.data.copy_(files.read(name, parameter.dtype))


def refuse_broken(tensors: Mapping[str, Tensor]) -> None:
    """Refuse to save a model with NaN or infinite values in its tensors."""
    broken = [name for name, tensor in tensors.items() if not all_finite(tensor)]
    if broken:
        raise CheckpointError(f"the model holds NaN or infinite values and was not saved: {', '.join(broken[:5])}")
