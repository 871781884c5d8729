"""An open compiled library, and how its functions are called."""

from __future__ import annotations

import ctypes
from pathlib import Path

import torch

INTERFACE = 15
"""The version of the functions' arguments and their meaning; interface.c has the same number."""


class OpenedLibrary:
    """A compiled library.

    Args:
        path: the file of the library.

    Raises:
        OSError: the library cannot be loaded, or was compiled from sources with other arguments.
    """

    def __init__(self, path: Path):
        self.functions = ctypes.CDLL(str(path))
        try:
            found = self.functions.veneer_interface()
        except AttributeError:
            found = 0
        if found != INTERFACE:
            raise OSError(
                f"{path} was compiled from other sources (interface {found}, not {INTERFACE}); compile it again by "
                "`python -m veneer.native.build`"
            )

    def call(self, name: str, *arguments: object) -> None:
        """Call a function by its name without `veneer_`, with torch's number of threads.

        Raises:
            MemoryError: there is no memory for its working space.
        """
        if getattr(self.functions, f"veneer_{name}")(*arguments, ctypes.c_int(torch.get_num_threads())):
            raise MemoryError(f"native kernel {name}: no memory for its working space")
