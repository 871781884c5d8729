"""The optimiser's state in a checkpoint: one file, which one process writes."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from safetensors import SafetensorError
from safetensors.torch import load_file

from veneer.errors import CheckpointError
from veneer.io.files import write_tensors
from veneer.training.optimizers.base import Optimizer

OPTIMIZER = "optimizer.safetensors"
PARTS = "optimizer"
"""The folder of the state where it is in parts (`veneer.training.sharded`)."""


class StateFiles(Protocol):
    """How the optimiser's state lies in a checkpoint, and who writes that."""

    def begin(self, folder: Path | None) -> None:
        """Take note that the first process begins to write a checkpoint into the folder; None where it writes none."""
        ...

    def awaited(self) -> Path | None:
        """The folder of a checkpoint of which this process, which is not the first, writes a part; None for none."""
        ...

    def save(self, folder: Path, optimizer: Optimizer) -> None:
        """Write the state."""
        ...

    def load(self, folder: Path, optimizer: Optimizer) -> None:
        """Copy the state that was written into the optimiser.

        Raises:
            CheckpointError: it does not fit the run.
        """
        ...


class OneFile:
    """The whole state in one file (`StateFiles`)."""

    def begin(self, folder: Path | None) -> None:
        """Nobody else writes."""

    def awaited(self) -> Path | None:
        """Nothing: the first process writes all of it."""
        return None

    def save(self, folder: Path, optimizer: Optimizer) -> None:
        """See `StateFiles`."""
        write_tensors(folder / OPTIMIZER, optimizer.tensors(), {"format": "pt"})

    def load(self, folder: Path, optimizer: Optimizer) -> None:
        """See `StateFiles`."""
        try:
            optimizer.load(load_file(folder / OPTIMIZER))
        except (SafetensorError, KeyError, RuntimeError) as error:
            raise CheckpointError(f"{folder / OPTIMIZER} does not fit this run: {error}") from error
