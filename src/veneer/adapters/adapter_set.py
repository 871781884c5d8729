"""Several adapters over one model: by name, one at a time, or several in one pass by row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from torch import nn

from veneer.adapters.adapter import Adapter, remove
from veneer.adapters.module import AdapterModule
from veneer.adapters.modules_to_save import Place, SavedModule
from veneer.adapters.routed import Route, RoutedExperts, RoutedLinear, RoutedRows
from veneer.adapters.store import load_adapter
from veneer.adapters.tables import Tables
from veneer.adapters.targets import HEAD
from veneer.errors import AdapterError, listing, nearest
from veneer.model.decoder import Embedding, RmsNorm
from veneer.model.experts import Experts
from veneer.model.language import LanguageModel


class AdapterSet:
    """Adapters of one base, of which one is in use, or none.

    The one in use hangs in the model as if it had been loaded alone, so that it pays nothing for the others; switching
    puts modules in their places and copies nothing.

    Args:
        model: without an adapter. It is changed through this object alone from now on.
    """

    def __init__(self, model: LanguageModel):
        self.model = model
        self._adapters: dict[str, Adapter] = {}
        self._bases: dict[str, nn.Module] = {}
        self._active: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Of all adapters, in the order of their loading."""
        return tuple(self._adapters)

    @property
    def active(self) -> str | None:
        """The one in use; None for the base alone."""
        return self._active

    def __getitem__(self, name: str) -> Adapter:
        """An adapter by name.

        Raises:
            AdapterError: there is none of that name.
        """
        self._check_known([name])
        return self._adapters[name]

    def load(self, name: str, folder: Path) -> Adapter:
        """Load a saved adapter and give it a name; what is in use stays so.

        Raises:
            AdapterError: the name is taken, or the adapter cannot be loaded; nothing has changed.
        """
        self._check_new(name)
        self._hang({})
        before = Tables.of(self.model)
        try:
            adapter = load_adapter(self.model, folder)
            if self.model.spec.vocab_size != before.vocab:
                remove(self.model, adapter)
                before.put_back(self.model)
                raise AdapterError(
                    f"{folder} has tokens of its own, for which the base's embedding would grow under the other "
                    "adapters too; load it on a model of its own"
                )
            self._lift(name, adapter)
        finally:
            self._hang(self._modules_in_use())
        return adapter

    def adopt(self, name: str, adapter: Adapter) -> None:
        """Take over an adapter that `inject` or `load_adapter` has just put on the model, while none is in use.

        Raises:
            AdapterError: the name is taken.
        """
        self._check_new(name)
        self._lift(name, adapter)

    def unload(self, name: str) -> None:
        """Forget an adapter; if it was in use, none is.

        Raises:
            AdapterError: there is none of that name.
        """
        self._check_known([name])
        if self._active == name:
            self.use(None)
        del self._adapters[name]

    def use(self, name: str | None) -> None:
        """Put an adapter in use, or none: the model is then its base.

        Raises:
            AdapterError: there is none of that name.
        """
        self._check_known([] if name is None else [name])
        self._active = name
        self._hang(self._modules_in_use())

    @contextmanager
    def routed(self, names: Sequence[str]) -> Iterator[Route]:
        """Within the block the model's passes are routed: each needs a `Route.lay` before it, which says whose its
        tokens are. The head is the base's, since its rows are not the pass's tokens.

        Raises:
            AdapterError: there is no adapter of a name, or the model's layers do not see tokens as one list.
        """
        self._check_known(names)
        if not self.model.flat:
            raise AdapterError(
                "several adapters in one pass need veneer's own decoder, and transformers computes this model (backend "
                "hf); put one after another in use"
            )
        found: dict[str, dict[str, nn.Module]] = {}
        for name in dict.fromkeys(names):
            for path, module in modules(self._adapters[name]).items():
                found.setdefault(path, {})[name] = module
        route = Route()
        self._hang({p: _routed(self._bases[p], parts, route) for p, parts in found.items() if p != HEAD})
        try:
            yield route
        finally:
            self._hang(self._modules_in_use())

    @contextmanager
    def by_row(self, names: Sequence[str | None]) -> Iterator[RowAdapters]:
        """Within the block each row is under an adapter of its own, or under none.

        What it yields is the `router` of `veneer.generation.generate` and of `veneer.evaluation.scoring.score`; other
        callers of the model lay it before every pass.

        Args:
            names: of the adapter of each row.

        Raises:
            AdapterError: there is no adapter of a name, or one changes the head: its rows are scored by themselves,
                in chunks that belong to nobody.
        """
        used = [name for name in dict.fromkeys(names) if name is not None]
        self._check_known(used)
        changed = [name for name in used if HEAD in self._adapters[name].layers]
        if changed:
            raise AdapterError(
                f"these adapters change {HEAD}, and cannot be mixed by row:\n{listing(changed)}\n"
                "Put one after another in use, each with its rows."
            )
        with self.routed(used) as route:
            yield RowAdapters(tuple(names), route)

    def _modules_in_use(self) -> dict[str, nn.Module]:
        return {} if self._active is None else modules(self._adapters[self._active])

    def _hang(self, own: Mapping[str, nn.Module]) -> None:
        for path, base in self._bases.items():
            module = own.get(path, base)
            module.train(self.model.training)
            Place.of(self.model, path).put(module)

    def _lift(self, name: str, adapter: Adapter) -> None:
        remove(self.model, adapter)
        for path, part in adapter.parts:
            self._bases.setdefault(path, cast(nn.Module, part.base))
        for _, part in adapter.parts:
            part.enabled = True
        self._adapters[name] = adapter
        self._hang(self._modules_in_use())

    def _check_new(self, name: str) -> None:
        if name in self._adapters:
            raise AdapterError(f"an adapter named {name!r} is loaded already; unload it first, or give another name")

    def _check_known(self, names: Sequence[str]) -> None:
        unknown = [name for name in names if name not in self._adapters]
        if unknown:
            offenders = listing(f"{name!r}{nearest(name, self.names)}" for name in unknown)
            raise AdapterError(
                f"no adapter of this name is loaded:\n{offenders}\nLoaded: {', '.join(self.names) or '-'}"
            )


@dataclass(frozen=True, slots=True)
class RowAdapters:
    """Which adapter each row is under."""

    names: tuple[str | None, ...]
    route: Route

    def group(self, row: int) -> str:
        """Rows of one group are computed best side by side."""
        name = self.names[row]
        return "" if name is None else f"={name}"

    def lay(self, rows: Sequence[int], tokens: Sequence[int]) -> None:
        """The next pass holds so many tokens of each of these rows, in this order."""
        self.route.lay([self.names[row] for row in rows], tokens)


def modules(adapter: Adapter) -> dict[str, nn.Module]:
    """What an adapter has in the place of the modules that it changes."""
    return {path: _module(part) for path, part in adapter.layers.items()}


def _module(part: AdapterModule) -> nn.Module:
    return part.own if isinstance(part, SavedModule) else cast(nn.Module, part)


def _routed(base: nn.Module, parts: Mapping[str, nn.Module], route: Route) -> nn.Module:
    if isinstance(base, Embedding | RmsNorm):
        return RoutedRows(base, parts, route)
    if isinstance(base, Experts):
        return RoutedExperts(base, parts, route)
    return RoutedLinear(base, parts, route)
