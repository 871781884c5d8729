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
"""The folder of the state if it is in parts (`veneer.training.sharded`)."""


class StateFiles(Protocol):
    """The files of the optimiser's state in a checkpoint, and who writes them."""

    def begin(self, folder: Path | None) -> None:
        """Called when the first process begins to write a checkpoint into the folder; None if it writes none."""
        ...

    def awaited(self) -> Path | None:
        """The folder of a checkpoint of which this process writes a part without being the first; None if there is
        none."""
        ...

    def save(self, folder: Path, optimizer: Optimizer) -> None:
        """Write the state."""
        ...

    def load(self, folder: Path, optimizer: Optimizer) -> None:
        """Load the written state into the optimiser.

        Raises:
            CheckpointError: the state does not fit the run.
        """
        ...


class OneFile:
    """The whole state in one file (`StateFiles`)."""

    def begin(self, folder: Path | None) -> None:
        """No other process writes."""

    def awaited(self) -> Path | None:
        """None: the first process writes everything."""
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
