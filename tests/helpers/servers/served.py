"""Servers of tiny models on free ports, for tests that talk to them over real sockets."""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from veneer.assistant.assistant import Assistant
from veneer.assistant.load import open_assistant
from veneer.config import ComputeSection
from veneer.errors import AdapterError, VeneerError
from veneer.generation.runner import AdapterLease, LoadedAdapter
from veneer.http_server.guard import Access
from veneer.http_server.limits import ServerLimits
from veneer.http_server.server import HttpServer
from veneer.model.language import LanguageModel
from veneer.serving.build import build_service, server_of
from veneer.serving.served_adapters.catalogue import AdapterVersion, GenerationConflict, UnknownAdapter
from veneer.serving.service import Service

BASE, ADAPTER = "tiny", "claims"
CPU = ComputeSection(device="cpu", dtype="float32")


@dataclass
class Held:
    """A lease of what is in memory already."""

    adapter: LoadedAdapter | None
    error: VeneerError | None = None

    def release(self) -> None:
        pass


@dataclass
class FixedAdapters:
    """Adapters that are whole models: the engine computes those beside the base in batches of their own."""

    models: dict[str, LanguageModel]
    generations: dict[str, int] = field(default_factory=dict)
    broken: set[str] = field(default_factory=set)

    def lease(self, name: str, on_ready: Callable[[], None]) -> AdapterLease:
        if name in self.broken:
            return Held(None, AdapterError(f"{name}: its file is damaged"))
        if name not in self.models:
            raise UnknownAdapter(f"{name}: there is no adapter of that name")
        return Held(LoadedAdapter(key=name.encode(), nbytes=0, model=self.models[name]))

    def versions(self) -> list[AdapterVersion]:
        return [AdapterVersion(name, self.generations.get(name, 1)) for name in sorted(self.models)]

    def version(self, name: str) -> AdapterVersion | None:
        return AdapterVersion(name, self.generations.get(name, 1)) if name in self.models else None

    def load(self, name: str, expected_generation: int | None) -> AdapterVersion:
        now = self.generations.get(name, 1)
        if name not in self.models:
            raise UnknownAdapter(f"{name}: there is no adapter of that name")
        if expected_generation not in (None, now):
            raise GenerationConflict(f"{name}: generation {now} is loaded, not {expected_generation}")
        self.generations[name] = now + 1
        return AdapterVersion(name, now + 1)

    def unload(self, name: str) -> None:
        if self.models.pop(name, None) is None:
            raise UnknownAdapter(f"{name}: there is no adapter of that name")


def tiny_assistant(model: Path) -> Assistant:
    return open_assistant(str(model), compute=CPU)


@contextmanager
def serving(
    assistant: Assistant,
    *,
    adapters: dict[str, LanguageModel] | None = None,
    access: Access | None = None,
    limits: ServerLimits | None = None,
) -> Iterator[tuple[HttpServer, Service]]:
    """A server of a model within the block."""
    catalogue = None if adapters is None else FixedAdapters(dict(adapters))
    service = build_service(assistant, BASE, catalogue, cache_bytes=10**8, limits=limits)
    with server_of(service, access or Access()) as server:
        yield server, service


def call(
    server: HttpServer, method: str, path: str, content: object = None, **headers: str
) -> tuple[int, dict[str, str], Any]:
    """One request: status, headers and body, parsed where it is JSON."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    try:
        body = content if isinstance(content, bytes) or content is None else json.dumps(content).encode()
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        data = answer.read()
        found = {name.lower(): value for name, value in answer.getheaders()}
        return answer.status, found, json.loads(data) if data and "json" in found.get("content-type", "") else data
    finally:
        connection.close()


def raw(server: HttpServer, data: bytes, timeout: float = 60.0) -> bytes:
    """What the server sends until it closes, to bytes of ours."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=timeout) as connection:
        connection.sendall(data)
        pieces = []
        while piece := connection.recv(65536):
            pieces.append(piece)
    return b"".join(pieces)


def until(holds: Callable[[], bool], seconds: float = 120.0) -> bool:
    """Wait until something holds; whether it does."""
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True
