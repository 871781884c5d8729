"""The model for the chat: one base in memory, together with the adapters of all runs that were trained on it.

The base is loaded when a request first needs it, in the form that the request needs: an adapter answers over the base
as its run held it, quantised or not. A request for another base or another form replaces the loaded one as soon as the
requests that use it are answered. Requests that arrive in the meantime wait their turn, so that none starves.
"""

from __future__ import annotations

import asyncio
import gc
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from veneer.assistant.assistant import Assistant
from veneer.assistant.load import load_assistant
from veneer.assistant.request import AssistantRequest
from veneer.config import ComputeSection
from veneer.errors import VeneerError
from veneer.events import ignore
from veneer.http_server.errors import ApiError
from veneer.http_server.limits import ServerLimits
from veneer.io.checkpoint import model_name
from veneer.io.files import reported
from veneer.loading.base_form import AS_IN_FILES, BaseForm, recorded_form
from veneer.machine.hardware import resolve_device
from veneer.run_folder import RunFolder, recorded_run
from veneer.serving.build import build_service
from veneer.serving.model_names import no_model
from veneer.serving.served_adapters.folder import AdapterFolder
from veneer.serving.served_adapters.loading import adapter_loader
from veneer.serving.service import Service
from veneer.studio.bases import Bases
from veneer.studio.job_request import EXTENSION
from veneer.studio.links import link
from veneer.studio.path_names import names_for_folder, names_for_models, without_paths
from veneer.studio.results import digest_of, plain_name, results_of
from veneer.studio.watch import Watcher

HELD_AS = f"{EXTENSION}.held_as"
"""The field of a request to a base that names an adapter: the base is then held as the run of that adapter held it."""
ADAPTER_BYTES = 10**9
"""Bytes that adapters may take in memory."""
CACHE_BYTES = 5 * 10**8
"""Bytes that keys and values may take."""
_CHECKPOINT = re.compile(r"(.+)-step-([0-9]{1,9})", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Asked:
    """What must be in memory for an answer."""

    source: str
    """The base."""
    adapter: tuple[str, Path] | None = None
    """The name and the folder of the adapter that answers; None for the base itself."""
    held_as: Path | None = None
    """The folder of the adapter whose run says how the base is held. With None, the base is held as it is in its
    files."""


@dataclass(frozen=True, slots=True)
class _Held:
    """A base in memory, with the service that answers over it."""

    source: str
    assistant: Assistant
    adapters: AdapterFolder
    service: Service


class ChatHost:
    """Holds the service that answers.

    Args:
        root: the folder of runs.
        compute: where models are computed.
        bases: the base models.
        watcher: knows the runs.
        links: a folder for links to the adapters, from which the service loads them.
        limits: the limits for clients.
    """

    def __init__(
        self, root: Path, compute: ComputeSection, bases: Bases, watcher: Watcher, links: Path, limits: ServerLimits
    ):
        self._root, self._compute, self._limits = root, compute, limits
        self._bases, self._watcher, self._links = bases, watcher, links
        self._held: _Held | None = None
        self._door = asyncio.Lock()
        """Held by the request that gets the service next. The others follow in their order."""
        self._users = 0
        """The number of requests that use the service."""
        self._unused = asyncio.Event()
        """Set while there are none."""
        self._stopping = False

    @property
    def accepting(self) -> bool:
        """See `Served.accepting`."""
        held = self._held
        return held is None or held.service.accepting

    def adapters(self) -> dict[str, tuple[str, Path]]:
        """The base and the folder of every adapter that can be used in the chat, by the adapter's name."""
        found = results_of(self._watcher, self._bases.all())
        return {name: (one.base, one.folder) for name, one in found.items() if not one.scores}

    @asynccontextmanager
    async def service_for(self, name: object, held_as: object = None) -> AsyncIterator[Service]:
        """Yields the service that has the model of that name. The model is loaded if necessary, and stays loaded within
        the block.

        Args:
            name: the name of a base or an adapter. An adapter answers over the base as its run held it.
            held_as: for a base, the name of one of its adapters: the base is held as the run of that adapter held it.
                With None, it is held as it is in its files.

        Raises:
            ApiError: 404 if no model has that name, 400 if the model cannot be used, 503 if the studio is stopping.
        """
        asked = await self._found(name, held_as)
        async with self._door:
            service = await self._service(asked)
            self._users += 1
            self._unused.clear()
        try:
            yield service
        finally:
            self._users -= 1
            if not self._users:
                self._unused.set()

    async def _found(self, name: object, held_as: object) -> Asked:
        """What a request needs that names a model, and perhaps an adapter whose run says how the model is held."""
        if not isinstance(name, str):
            raise ApiError(400, "model: missing; give the name of a base or of an adapter", param="model")
        if not isinstance(held_as, str | None):
            raise ApiError(400, f"{HELD_AS} must be the name of an adapter", param=HELD_AS)
        wanted = {name, *(() if held_as is None else (held_as,))}
        adapters = self.adapters()
        if wanted - adapters.keys() - self._bases.all().keys():
            # Its run may have finished since the last look.
            await asyncio.to_thread(self._watcher.look)
            adapters = self.adapters()
        for one in wanted:
            adapters |= _checkpoint(one, adapters)
        own, bases = adapters.get(name), self._bases.all()
        if own is None and bases and name not in bases:
            raise no_model(name, [*bases, *adapters])
        source = self._bases.source(name) if own is None else own[0]
        if held_as is None:
            return Asked(source) if own is None else Asked(source, (name, own[1]), own[1])
        if own is not None or held_as not in adapters or adapters[held_as][0] != source:
            message = (
                f"{HELD_AS} {held_as[:100]!r} must be an adapter of {name[:100]!r}, which must be a base: an adapter "
                "answers over the base as its own run held it; leave it out, or name a base and one of its adapters"
            )
            raise ApiError(400, message, param=HELD_AS)
        return Asked(source, held_as=adapters[held_as][1])

    async def _service(self, asked: Asked) -> Service:
        """The service that answers. Only the holder of the lock may call this."""
        held = await self._loaded(asked)
        if asked.adapter is not None:
            await asyncio.to_thread(self._take_up, held, *asked.adapter)
        return held.service

    async def _loaded(self, asked: Asked) -> _Held:
        """The base in the form that is needed, with the service that answers over it."""
        form = await asyncio.to_thread(self._form, asked)
        # No local name may keep a reference to the base that is replaced.
        if self._held is not None and self._held.source == asked.source and self._held.assistant.holds(form):
            return self._held
        if self._users:
            # A client that never reads its answer must not block the other base for everybody.
            with suppress(TimeoutError):
                await asyncio.wait_for(self._unused.wait(), self._limits.request_seconds)
        if self._stopping:
            raise ApiError(503, "the studio is about to stop", headers={"retry-after": "1"})
        return await asyncio.to_thread(self._open, asked)

    def _form(self, asked: Asked) -> BaseForm:
        """How the base is to be held.

        Raises:
            ApiError: 400 if the record of the run that says so cannot be read.
        """
        try:
            run = recorded_run(asked.held_as)
        except VeneerError as error:
            raise self._refusal(error, asked.source) from error
        return AS_IN_FILES if run is None else recorded_form(run, resolve_device(self._compute.device))

    def _refusal(self, error: VeneerError, source: str) -> ApiError:
        """The error as clients get it, without paths of this machine."""
        names = {**names_for_folder(self._root), **names_for_models([source])}
        return ApiError(400, without_paths(str(error), names), param="model")

    def drain(self, seconds: float) -> bool:
        """See `Served.drain`. From now on no base is loaded."""
        self._stopping = True
        held = self._held
        return held is None or held.service.drain(seconds)

    def close(self) -> None:
        """Release the model and its adapters, whose loader refers to the model too."""
        if self._held is not None:
            self._held.service.close()
            self._held.adapters.close()
        self._held = None

    def _open(self, asked: Asked) -> _Held:
        if self._held is not None:
            self._held.service.drain(self._limits.drain_seconds)
        self.close()
        # An engine and its model refer to each other, and Python collects such cycles only now and then.
        gc.collect()
        folder = self._links_of(asked.source)
        with reported(folder):
            folder.mkdir(parents=True, exist_ok=True)
        request = AssistantRequest(model=asked.source, compute=self._compute, held_as=asked.held_as)
        try:
            assistant = load_assistant(request, ignore)
            loader = adapter_loader(assistant.model, tokenizer=assistant.tokenizer, base_files=assistant.files)
            adapters = AdapterFolder(folder, loader, ADAPTER_BYTES)
            with ExitStack() as unfinished:
                unfinished.callback(adapters.close)
                service = build_service(
                    assistant, self._bases.name_of(asked.source), adapters, cache_bytes=CACHE_BYTES, limits=self._limits
                )
                unfinished.pop_all()
        except VeneerError as error:
            raise self._refusal(error, asked.source) from error
        self._held = _Held(asked.source, assistant, adapters, service)
        return self._held

    def _take_up(self, held: _Held, name: str, folder: Path) -> None:
        """Make an adapter of the loaded base available, with the present content of its folder.

        Raises:
            AdapterError: the files of the adapter cannot be read.
            OutputError: the link to the adapter cannot be written.
        """
        link(self._links_of(held.source) / name, folder)
        held.adapters.take_up(name)

    def _links_of(self, source: str) -> Path:
        """The folder of links to the adapters of a base. Two bases with the same name have different folders."""
        return self._links / f"{plain_name(model_name(source))}-{digest_of(source)}"


def _checkpoint(name: str, adapters: Mapping[str, tuple[str, Path]]) -> dict[str, tuple[str, Path]]:
    """The checkpoint of a run's adapter that has that name (`ADAPTER-step-40`), in the form of `ChatHost.adapters`.
    Empty if no checkpoint has that name."""
    found = _CHECKPOINT.fullmatch(name)
    if found is None or name in adapters or found[1] not in adapters:
        return {}
    (source, folder), step = adapters[found[1]], int(found[2])
    run = RunFolder(folder)
    return {name: (source, run.checkpoint(step))} if step in run.checkpoint_steps() else {}
