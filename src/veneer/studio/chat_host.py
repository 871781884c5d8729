"""The model that is chatted with: one base in memory, and beside it the adapters of all runs that were trained on it.

The base is loaded when it is first asked for. Where another one is asked for, it takes the first one's place as soon as
the requests that have that one are answered; whoever comes meanwhile waits behind it, so that neither base starves.
"""

from __future__ import annotations

import asyncio
import gc
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from veneer.assistant.load import open_assistant
from veneer.errors import VeneerError
from veneer.io.checkpoint import model_name
from veneer.io.files import reported
from veneer.run_folder import RunFolder
from veneer.serving.adapter_loading import adapter_loader
from veneer.serving.adapters import AdapterFolder
from veneer.serving.build import build_service
from veneer.serving.errors import ApiError
from veneer.serving.limits import ServerLimits
from veneer.serving.service import Service
from veneer.studio.bases import Bases
from veneer.studio.links import link
from veneer.studio.request import StudioRequest
from veneer.studio.results import digest_of, plain_name, results_of
from veneer.studio.watch import Watcher

_CHECKPOINT = re.compile(r"(.+)-step-([0-9]{1,9})", re.DOTALL)


@dataclass(slots=True)
class ChatHost:
    """Holds the service that answers.

    Args:
        request: the studio that was asked for.
        bases: the base models.
        watcher: knows the runs.
        links: a folder for links to the adapters, which the service takes its adapters from.
        limits: what a client may take.
    """

    request: StudioRequest
    bases: Bases
    watcher: Watcher
    links: Path
    limits: ServerLimits
    service: Service | None = None
    source: str | None = None
    """The base that is loaded."""
    _adapters: AdapterFolder | None = None
    _door: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Is held by the one that is to get the service next; those behind it come in their order."""
    _users: int = 0
    """Requests that have the service."""
    _unused: asyncio.Event = field(default_factory=asyncio.Event)
    """Is set while there are none."""
    _stopping: bool = False

    def adapters(self) -> dict[str, tuple[str, Path]]:
        """Every adapter that can be chatted with: its base and its folder, by its name."""
        found = results_of(self.watcher, self.bases.all())
        return {name: (one.base, one.folder) for name, one in found.items() if not one.scores}

    @asynccontextmanager
    async def service_for(self, name: object) -> AsyncIterator[Service]:
        """Yields the service that has a model of that name, loaded where it is not; it is kept within the block.

        Raises:
            ApiError: 404, there is none; 400, it cannot be used; 503, the studio is about to stop.
        """
        source, adapter = await self._found(name)
        async with self._door:
            service = await self._loaded(source)
            if adapter is not None:
                await asyncio.to_thread(self._take_up, *adapter)
            self._users += 1
            self._unused.clear()
        try:
            yield service
        finally:
            self._users -= 1
            if not self._users:
                self._unused.set()

    async def _found(self, name: object) -> tuple[str, tuple[str, Path] | None]:
        """The base of the model of that name, and the name and the folder of its adapter, where it is one."""
        if not isinstance(name, str):
            raise ApiError(400, "model: missing; give the name of a base or of an adapter", param="model")
        adapters = self.adapters()
        if name not in adapters and name not in self.bases.all():
            # It may have been finished since the last look.
            await asyncio.to_thread(self.watcher.look)
            adapters = self.adapters()
        adapters |= _checkpoint(name, adapters)
        return (adapters[name][0], (name, adapters[name][1])) if name in adapters else (self.bases.source(name), None)

    async def _loaded(self, source: str) -> Service:
        """The service over a base. Only the one at the door may ask."""
        if self.service is None or self.source != source:
            if self._users:
                # A client that takes no answer must not keep everybody from the other base for ever.
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._unused.wait(), self.limits.request_seconds)
            if self._stopping:
                raise ApiError(503, "the studio is about to stop", headers={"retry-after": "1"})
            await asyncio.to_thread(self._open, source)
        assert self.service is not None
        return self.service

    def open(self, source: str) -> None:
        """Load a base before anybody asks. Raises VeneerError where it cannot be used."""
        self._open(source)

    def drain(self, seconds: float) -> bool:
        """See `Served.drain`. No base is loaded any more."""
        self._stopping = True
        return self.service is None or self.service.drain(seconds)

    def close(self) -> None:
        """Let the model go, and the adapters beside it, whose loader holds it too."""
        if self.service is not None:
            self.service.close()
        if self._adapters is not None:
            self._adapters.close()
        self.service, self.source, self._adapters = None, None, None

    def _open(self, source: str) -> None:
        if self.service is not None:
            self.service.drain(self.limits.drain_seconds)
        self.close()
        # An engine and its model refer to each other, and Python looks for such rings only now and then.
        gc.collect()
        folder = self._links_of(source)
        with reported(folder):
            folder.mkdir(parents=True, exist_ok=True)
        try:
            assistant = open_assistant(source, compute=self.request.compute)
            loader = adapter_loader(assistant.model, base_files=assistant.files)
            self._adapters = AdapterFolder(folder, loader, self.request.adapter_memory)
            self.service = build_service(
                assistant,
                self.bases.name_of(source),
                self._adapters,
                cache_bytes=self.request.cache_memory,
                limits=self.limits,
            )
        except VeneerError as error:
            self.close()
            raise ApiError(400, str(error), param="model") from error
        self.source = source

    def _take_up(self, name: str, folder: Path) -> None:
        """Let an adapter of the base that is loaded be asked for, as its folder is now.

        Raises:
            AdapterError: its files cannot be read.
            OutputError: its link cannot be written.
        """
        assert self._adapters is not None
        assert self.source is not None
        link(self._links_of(self.source) / name, folder)
        self._adapters.take_up(name)

    def _links_of(self, source: str) -> Path:
        """The folder of links to the adapters of a base; two bases of one name have two."""
        return self.links / f"{plain_name(model_name(source))}-{digest_of(source)}"


def _checkpoint(name: str, adapters: Mapping[str, tuple[str, Path]]) -> dict[str, tuple[str, Path]]:
    """The checkpoint of a run's adapter that has that name (`ADAPTER-step-40`), as `ChatHost.adapters` has adapters;
    empty where there is none."""
    found = _CHECKPOINT.fullmatch(name)
    if found is None or name in adapters or found[1] not in adapters:
        return {}
    (source, folder), step = adapters[found[1]], int(found[2])
    run = RunFolder(folder)
    return {name: (source, run.checkpoint(step))} if step in run.checkpoint_steps() else {}
