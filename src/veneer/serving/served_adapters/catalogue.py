"""The interface of a catalogue of adapters, which can be listed, and replaced while the server answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from veneer.errors import AdapterError
from veneer.generation.runner import AdapterSource


class GenerationConflict(AdapterError):
    """The loaded version of an adapter is not the one that the caller expects."""


class UnknownAdapter(AdapterError):
    """The catalogue has no adapter of a name."""


@dataclass(frozen=True, slots=True)
class AdapterVersion:
    """An adapter that requests may name."""

    name: str
    generation: int
    """How many versions have been loaded under this name, this one included."""


class AdapterCatalogue(AdapterSource, Protocol):
    """Adapters that can be listed, and replaced while the server answers. Any thread may call the methods."""

    def versions(self) -> Sequence[AdapterVersion]:
        """All adapters, in the order of their names."""
        ...

    def version(self, name: str) -> AdapterVersion | None:
        """The adapter of a name; None if there is none."""
        ...

    def load(self, name: str, expected_generation: int | None) -> AdapterVersion:
        """Load or reload an adapter from the catalogue's own folder. Running requests keep their version; if loading
        fails, the earlier version stays.

        Args:
            name: the adapter's name.
            expected_generation: the generation that must be loaded now, if given (0: none).

        Raises:
            UnknownAdapter: there is no adapter of that name.
            GenerationConflict: another generation is loaded.
            AdapterError: it cannot be used.
        """
        ...

    def unload(self, name: str) -> None:
        """Forget an adapter. Running requests keep their version.

        Raises:
            UnknownAdapter: there is no adapter of that name.
        """
        ...
