"""What a catalogue of adapters is: they can be listed, and exchanged while others are asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from veneer.errors import AdapterError
from veneer.generation.runner import AdapterSource


class GenerationConflict(AdapterError):
    """Another version of an adapter is loaded than the caller believes."""


@dataclass(frozen=True, slots=True)
class AdapterVersion:
    """An adapter that may be asked for."""

    name: str
    generation: int
    """How often it has been loaded anew under this name, from 1 on."""


class AdapterCatalogue(AdapterSource, Protocol):
    """Adapters that can be listed, and exchanged while others are asked. The methods may be called on any thread."""

    def versions(self) -> Sequence[AdapterVersion]:
        """All adapters, in the order of their names."""
        ...

    def load(self, name: str, expected_generation: int | None) -> AdapterVersion:
        """Load an adapter of the catalogue's own folder, or load it anew. Requests under way keep the version that they
        have; where loading fails, the version that was there stays.

        Args:
            name: the adapter's name.
            expected_generation: the generation that the loaded adapter must have, if given (0: nothing is loaded).

        Raises:
            GenerationConflict: another generation is loaded.
            AdapterError: there is none of that name, or it cannot be used.
        """
        ...

    def unload(self, name: str) -> None:
        """Forget an adapter. Requests under way keep the version that they have.

        Raises:
            AdapterError: there is none of that name.
        """
        ...
