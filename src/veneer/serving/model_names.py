"""The names of the models: the base and the adapters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from veneer.errors import nearest
from veneer.http_server.errors import ApiError
from veneer.serving.served_adapters.catalogue import AdapterCatalogue, AdapterVersion


@dataclass(frozen=True, slots=True)
class ModelNames:
    """The names that requests may give.

    Args:
        base: the base's name.
        catalogue: the adapters, or None if there are none.
    """

    base: str
    catalogue: AdapterCatalogue | None = None

    def adapters(self) -> tuple[AdapterVersion, ...]:
        """The adapters, in the order of their names."""
        return () if self.catalogue is None else tuple(self.catalogue.versions())

    def all(self) -> tuple[str, ...]:
        """All names, the base's first."""
        return (self.base, *(adapter.name for adapter in self.adapters()))

    def adapter(self, model: str | None) -> AdapterVersion | None:
        """The adapter that a request names, or None for the base.

        Raises:
            ApiError: 400, there is no name; 404, no model has the name. The base never answers instead.
        """
        if model is None:
            raise ApiError(400, "model: missing; give the name of the base or of an adapter", param="model")
        if model == self.base:
            return None
        found = None if self.catalogue is None else self.catalogue.version(model)
        if found is None:
            raise no_model(model, self.all())
        return found

    def adapter_of(self, model: str | None) -> str | None:
        """The name of the adapter that a request names, or None for the base. Raises as `adapter`."""
        found = self.adapter(model)
        return None if found is None else found.name


def no_model(model: str, names: Sequence[str]) -> ApiError:
    """The error for a name that no model has."""
    hint = nearest(model, names)
    message = f"there is no model {model[:100]!r}{hint}; GET /v1/models lists the {len(names):,} that there are"
    return ApiError(404, message, param="model", code="model_not_found")
