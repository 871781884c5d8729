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
        self._library = ctypes.CDLL(str(path))
        try:
            found = self._library.veneer_interface()
        except AttributeError:
            found = 0
        if found != INTERFACE:
            raise OSError(
                f"{path} was compiled from other sources (interface {found}, not {INTERFACE}); compile it again by "
                "`python -m veneer.native.build`"
            )

    def _call(self, name: str, *arguments: object) -> None:
        if getattr(self._library, f"veneer_{name}")(*arguments, ctypes.c_int(torch.get_num_threads())):
            raise MemoryError(f"native kernel {name}: no memory for its working space")
