"""A model's files as transformers' modules want them: other names, weights of Conv1D turned round, experts as one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from veneer.errors import ModelError, listing
from veneer.io.checkpoint import Checkpoint
from veneer.io.experts import as_stored
from veneer.io.prequantised import StoredFormat, StoredWeight
from veneer.io.protocol import BlockTensor
from veneer.io.tokenizer import Tokenizer
from veneer.model.hf_skeleton import Skeleton
from veneer.model.hf_sources import TensorSources, find_sources


class HfFiles:
    """A `Checkpoint` whose names are those of transformers' modules, and whose linear weights are all `[out, in]`.

    Args:
        checkpoint: the model's files.
        skeleton: the model.

    Raises:
        ModelError: tensors are missing, or have another shape than the configuration says; the message names all of
            them.
    """

    def __init__(self, checkpoint: Checkpoint, skeleton: Skeleton):
        # transformers has its own rules for storing experts.
        checkpoint = as_stored(checkpoint)
        self.checkpoint, self.source = checkpoint, checkpoint.source
        self.config: Mapping[str, Any] = checkpoint.config
        self.generation_config: Mapping[str, Any] = checkpoint.generation_config
        self._sources = find_sources(skeleton.module, checkpoint.names())
        self._turned = frozenset(f"{linear.path}.weight" for linear in skeleton.spec.linears if linear.transposed)
        files = {own: found.names[0] for own, found in self._sources.items() if found.make is None}
        self.stored: Mapping[str, StoredFormat] = {
            own: checkpoint.stored[file] for own, file in files.items() if file in checkpoint.stored
        }
        self.blocks: Mapping[str, BlockTensor] = {}  # a weight may be turned, or made of several
        self._check(skeleton)

    def _check(self, skeleton: Skeleton) -> None:
        problems = [
            f"{name}: is quantised and stored transposed; use the model's unquantised checkpoint, and method qlora"
            for name in self.stored
            if name in self._turned
        ]
        tied = skeleton.tied
        for own, parameter in skeleton.module.named_parameters():
            name = tied.get(own, own)
            found = self._sources.get(name)
            if found is not None and found.make is None:
                shape = self.checkpoint.shape(found.names[0])
                if shape != tuple(parameter.shape):
                    problems.append(f"{name}: shape {list(shape)}, config.json says {list(parameter.shape)}")
        if problems:
            raise ModelError(f"the tensors of {self.source} do not fit its configuration:\n{listing(problems)}")

    def file_name(self, name: str) -> str:
        """The tensor in the files that a tensor of the model is.

        Raises:
            ModelError: it is made of several.
        """
        found = self._sources[name]
        if found.make is not None:
            raise ModelError(f"{name} is made of several tensors of {self.source}: {', '.join(found.names[:3])}, …")
        return found.names[0]

    def file_names(self, name: str) -> tuple[str, ...]:
        """The tensors in the files that a tensor of the model is made of."""
        return self._sources[name].names

    def turned(self, name: str, tensor: Tensor) -> Tensor:
        """A weight the other way round, where files and layer differ in that."""
        return tensor.t().contiguous() if name in self._turned else tensor

    def names(self) -> list[str]:
        """Names of all tensors that the model reads from the files."""
        return list(self._sources)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of one that is a single tensor of the files."""
        shape = self.checkpoint.shape(self.file_name(name))
        return tuple(reversed(shape)) if name in self._turned else shape

    def read(self, name: str, dtype: torch.dtype) -> Tensor:
        """One tensor; see `Checkpoint`."""
        found: TensorSources | None = self._sources.get(name)
        if found is None:
            raise ModelError(f"{self.source} has no tensor {name!r}.")
        reads: list[Callable[[], Tensor]] = [partial(self.checkpoint.read, file, dtype) for file in found.names]
        return self.turned(name, reads[0]() if found.make is None else found.make(reads))

    def read_stored(self, name: str) -> StoredWeight:
        """The parts of one of `stored`."""
        return self.checkpoint.read_stored(self.file_name(name))

    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer."""
        return self.checkpoint.tokenizer()

    def files(self) -> list[Path]:
        """Every file that was read."""
        return self.checkpoint.files()
