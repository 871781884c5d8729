"""Full fine-tuning of a model whose weights are split into as many parts as there are processes (`compute.sharding:
full`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from veneer.io.checkpoint import Checkpoint
from veneer.io.model_files import stream_model
from veneer.model.decoder import CausalLM
from veneer.processes.group_share import GroupShare
from veneer.training.folder.optimizer_file import PARTS
from veneer.training.optimizers.base import Optimizer
from veneer.training.parallel.part_files import read_parts, whole_tensors, write_parts
from veneer.training.parallel.shards import Shards
from veneer.training.trainable import refuse_broken

WEIGHTS = "weights"
"""The folder of a checkpoint that holds the parts of the weights."""


@dataclass(slots=True)
class ShardedTraining:
    """Every parameter is trained, and this process holds and updates its part of each (`Trainable`)."""

    model: CausalLM
    origin: Checkpoint
    shards: Shards

    def named(self) -> dict[str, nn.Parameter]:
        """This process's part of every parameter."""
        return self.shards.parts

    @property
    def numbers(self) -> int:
        """See `Trainable`."""
        return self.shards.numbers

    def seed_step(self, seed: int) -> None:
        """Nothing to do: the decoder has no dropout, so no random numbers are drawn."""

    def changed(self) -> None:
        """Nothing to do: nothing is derived from the weights."""

    def generator(self) -> None:
        """None: no random numbers are drawn."""

    def save(self, directory: Path, base: Mapping[str, str]) -> None:
        """Write this process's parts of the weights; every process does so."""
        refuse_broken(self.shards.parts)
        folder = directory / WEIGHTS
        write_parts(folder, self.shards.weights(), self.shards.group)

    def restore(self, directory: Path) -> None:
        """Read this process's parts."""
        read_parts(directory / WEIGHTS, self.shards.weights())

    def publish(self, checkpoint: Path, directory: Path) -> None:
        """Write the model of a checkpoint in Hugging Face's format, with few tensors in memory at a time. One process
        does so.

        Args:
            checkpoint: a complete checkpoint.
            directory: an existing folder.

        Raises:
            OutputError: a file cannot be written.
            CheckpointError: the checkpoint lacks a tensor.
        """
        shapes = {name: tuple(weight.shape) for name, weight in self.shards.weights().items()}
        stream_model(directory, shapes, whole_tensors(checkpoint / WEIGHTS, shapes), self.origin)


class StateInParts:
    """The optimiser's state in a checkpoint that all processes write together (`StateFiles`).

    Args:
        shards: the parts of this process.
    """

    def __init__(self, shards: Shards):
        self._shards, self._share = shards, GroupShare(shards.group)

    def begin(self, folder: Path | None) -> None:
        """Create the folders of the parts, and tell the other processes about them; None if nothing is written."""
        if folder is not None:
            for name in (WEIGHTS, PARTS):
                (folder / name).mkdir()
        self._share.from_first(lambda: None if folder is None else str(folder))

    def awaited(self) -> Path | None:
        """The folder that the first process has announced; None if nothing is written.

        Raises:
            RankLost: the first process is gone.
        """
        folder = self._share.from_first(lambda: None)
        return None if folder is None else Path(folder)

    def save(self, folder: Path, optimizer: Optimizer) -> None:
        """Write this process's parts; every process does so."""
        write_parts(folder / PARTS, self._shards.placed(optimizer.tensors()), self._shards.group)

    def load(self, folder: Path, optimizer: Optimizer) -> None:
        """Read this process's parts.

        Raises:
            CheckpointError: they do not fit the run.
        """
        read_parts(folder / PARTS, self._shards.placed(optimizer.tensors()))
