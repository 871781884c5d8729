"""Several adapters over one model: one of them active, or several in one pass, chosen by row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from torch import nn

from veneer.adapters.adapter import Adapter, remove
from veneer.adapters.layers.modules_to_save import SavedModule
from veneer.adapters.layers.routed import Route, RoutedExperts, RoutedLinear, RoutedRows
from veneer.adapters.load import load_adapter
from veneer.adapters.module import AdapterModule, ModulePlace
from veneer.adapters.targets import HEAD
from veneer.adapters.vocabulary import EmbeddingSnapshot
from veneer.errors import AdapterError, listing, nearest
from veneer.model.experts import Experts
from veneer.model.language import LanguageModel
from veneer.model.leaves import NormModule
from veneer.tables import TokenLookup


class AdapterSet:
    """Named adapters of one base model, of which one is active, or none.

    The active adapter is in the model as if only it had been loaded: the others cost nothing. Switching replaces
    modules and copies no weights.

    Args:
        model: a model without an adapter. From now on only this object may change it.
    """

    def __init__(self, model: LanguageModel):
        self.model = model
        self._adapters: dict[str, Adapter] = {}
        self._bases: dict[str, nn.Module] = {}
        self._active: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all adapters, in the order of loading."""
        return tuple(self._adapters)

    @property
    def active(self) -> str | None:
        """Name of the active adapter; None for the base alone."""
        return self._active

    def __getitem__(self, name: str) -> Adapter:
        """The adapter with this name.

        Raises:
            AdapterError: there is none of that name.
        """
        self._check_known([name])
        return self._adapters[name]

    def load(self, name: str, folder: Path) -> Adapter:
        """Load a saved adapter under a name. The active adapter stays the same.

        Raises:
            AdapterError: the name is taken, or the adapter cannot be loaded; nothing has changed.
        """
        self._check_new(name)
        self._install({})
        before = EmbeddingSnapshot.of(self.model)
        try:
            adapter = load_adapter(self.model, folder)
            if self.model.spec.vocab_size != before.vocab:
                remove(self.model, adapter)
                before.restore(self.model)
                raise AdapterError(
                    f"{folder} has tokens of its own, for which the base's embedding would grow under the other "
                    "adapters too; load it on a model of its own"
                )
            self._register(name, adapter)
        finally:
            self._install(self._modules_in_use())
        return adapter

    def adopt(self, name: str, adapter: Adapter) -> None:
        """Add an adapter that `inject` or `load_adapter` has just put on the model, while no other is active.

        Raises:
            AdapterError: the name is taken.
        """
        self._check_new(name)
        self._register(name, adapter)

    def unload(self, name: str) -> None:
        """Remove an adapter. If it was active, none is active afterwards.

        Raises:
            AdapterError: there is none of that name.
        """
        self._check_known([name])
        if self._active == name:
            self.use(None)
        del self._adapters[name]

    def use(self, name: str | None) -> None:
        """Make an adapter the active one; None makes the model its base.

        Raises:
            AdapterError: there is none of that name.
        """
        self._check_known([] if name is None else [name])
        self._active = name
        self._install(self._modules_in_use())

    @contextmanager
    def routed(self, names: Sequence[str]) -> Iterator[Route]:
        """Within the block several adapters are in the model. Call `Route.lay` before each pass to assign its tokens to
        adapters.

        The head is the base's, since its rows are not the tokens of the pass.

        Raises:
            AdapterError: a name is unknown, or the model's layers do not see tokens as one list.
        """
        self._check_known(names)
        if not self.model.flat:
            raise AdapterError(
                "several adapters in one pass need veneer's own decoder, and transformers computes this model (backend "
                "hf); use one after another"
            )
        by_path: dict[str, dict[str, nn.Module]] = {}
        for name in dict.fromkeys(names):
            for path, module in modules(self._adapters[name]).items():
                by_path.setdefault(path, {})[name] = module
        route = Route()
        self._install({p: _routed(self._bases[p], own, route) for p, own in by_path.items() if p != HEAD})
        try:
            yield route
        finally:
            self._install(self._modules_in_use())

    @contextmanager
    def by_row(self, names: Sequence[str | None]) -> Iterator[RowAdapters]:
        """Within the block each row has an adapter of its own, or none.

        The result is the `router` of `veneer.generation.batch.generate` and `veneer.evaluation.scoring.score`. Other
        callers of the model call its `lay` before every pass.

        Args:
            names: the name of the adapter of each row, or None for the base.

        Raises:
            AdapterError: a name is unknown, or an adapter changes the head. The head computes rows in chunks that mix
                adapters.
        """
        used = [name for name in dict.fromkeys(names) if name is not None]
        self._check_known(used)
        changed = [name for name in used if HEAD in self._adapters[name].outermost]
        if changed:
            raise AdapterError(
                f"these adapters change {HEAD}, and cannot be mixed by row:\n{listing(changed)}\n"
                "Use one after another, each with its rows."
            )
        with self.routed(used) as route:
            yield RowAdapters(tuple(names), route)

    def _modules_in_use(self) -> dict[str, nn.Module]:
        return {} if self._active is None else modules(self._adapters[self._active])

    def _install(self, own: Mapping[str, nn.Module]) -> None:
        for path, base in self._bases.items():
            module = own.get(path, base)
            module.train(self.model.training)
            ModulePlace.of(self.model, path).put(module)

    def _register(self, name: str, adapter: Adapter) -> None:
        remove(self.model, adapter)
        for path, module in adapter.modules:
            self._bases.setdefault(path, cast(nn.Module, module.base))
        for _, module in adapter.modules:
            module.enabled = True
        self._adapters[name] = adapter
        self._install(self._modules_in_use())

    def _check_new(self, name: str) -> None:
        if name in self._adapters:
            raise AdapterError(f"an adapter named {name!r} is already loaded; unload it first, or give another name")

    def _check_known(self, names: Sequence[str]) -> None:
        unknown = [name for name in names if name not in self._adapters]
        if unknown:
            offenders = listing(f"{name!r}{nearest(name, self.names)}" for name in unknown)
            raise AdapterError(
                f"no adapter of this name is loaded:\n{offenders}\nLoaded: {', '.join(self.names) or '-'}"
            )


@dataclass(frozen=True, slots=True)
class RowAdapters:
    """The adapter of each row."""

    names: tuple[str | None, ...]
    route: Route

    def group(self, row: int) -> str:
        """A key that groups rows. It is best to compute the rows of one group together."""
        name = self.names[row]
        return "" if name is None else f"={name}"

    def lay(self, rows: Sequence[int], tokens: Sequence[int]) -> None:
        """Announce the next pass: the rows that it computes, in order, and the number of tokens of each."""
        self.route.lay([self.names[row] for row in rows], tokens)


def modules(adapter: Adapter) -> dict[str, nn.Module]:
    """The modules of an adapter, by the paths of the base modules that they replace."""
    return {path: _as_module(module) for path, module in adapter.outermost.items()}


def _as_module(module: AdapterModule) -> nn.Module:
    return module.own if isinstance(module, SavedModule) else cast(nn.Module, module)


def _routed(base: nn.Module, own: Mapping[str, nn.Module], route: Route) -> nn.Module:
    if isinstance(base, TokenLookup | NormModule):
        return RoutedRows(base, own, route)
    if isinstance(base, Experts):
        return RoutedExperts(base, own, route)
    return RoutedLinear(base, own, route)
