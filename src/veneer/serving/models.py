"""Which models there are: the base, and the adapters by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from veneer.errors import AdapterError, nearest
from veneer.generation.runner import AdapterSource
from veneer.serving.errors import ApiError


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
            name: of the adapter.
            expected_generation: where it is given, what is loaded must have this generation (0: nothing is loaded).

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


@dataclass(frozen=True, slots=True)
class ModelNames:
    """The names that requests may give.

    Args:
        base: the base's name.
        catalogue: the adapters, or None where there are none.
    """

    base: str
    catalogue: AdapterCatalogue | None = None

    def adapters(self) -> tuple[AdapterVersion, ...]:
        """The adapters, in the order of their names."""
        return () if self.catalogue is None else tuple(self.catalogue.versions())

    def all(self) -> tuple[str, ...]:
        """All names, the base's first."""
        return (self.base, *(adapter.name for adapter in self.adapters()))

    def adapter_of(self, model: str | None) -> str | None:
        """The adapter that a request names, or None for the base.

        Raises:
            ApiError: 400, there is no name; 404, nothing is called so. It is never the base that answers instead.
        """
        if model is None:
            raise ApiError(400, "model: missing; give the name of the base or of an adapter", param="model")
        if model == self.base:
            return None
        names = self.all()
        if model not in names[1:]:
            hint = nearest(model, names)
            raise ApiError(
                404,
                f"there is no model {model[:100]!r}{hint}; GET /v1/models lists the {len(names):,} that there are",
                param="model",
                code="model_not_found",
            )
        return model
