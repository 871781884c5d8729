"""`veneer serve`: load a model and its adapters, and answer requests until the program is asked to stop."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from veneer.arguments import check_least, check_types
from veneer.config import ComputeSection
from veneer.enums import Dtype, Method, choice
from veneer.errors import ConfigError, Ended, Interrupted
from veneer.events import Subscriber, broadcast
from veneer.runtime.packages import installed
from veneer.runtime.signals import deferred, stop_signalled
from veneer.serving.garbage import loaded_objects_left_out
from veneer.serving.request import MEMORY, PORT, ServeRequest, Serving

if TYPE_CHECKING:
    from veneer.http_server.server import HttpServer

PACKAGES = ("starlette", "uvicorn", "llguidance", "prometheus_client")
CHECK_SECONDS = 0.2
NOTICE = "the requests under way are answered, and no others; Ctrl-C now ends at once"


def serve(
    model: str | Path,
    *,
    adapters: str | Path | None = None,
    name: str | None = None,
    host: str = "127.0.0.1",
    port: int = PORT,
    key_file: str | Path | None = None,
    admin_key_file: str | Path | None = None,
    allowed_hosts: Sequence[str] = (),
    allowed_origins: Sequence[str] = (),
    adapter_memory: int = MEMORY,
    adapter_dtype: Dtype | str = Dtype.FLOAT32,
    pinned: Sequence[str] = (),
    cache_memory: int = MEMORY,
    method: Method | str | None = None,
    compute: ComputeSection | None = None,
    on_start: Callable[[Serving], None] = lambda serving: None,
    stop: Callable[[], bool] = lambda: False,
    subscribers: Sequence[Subscriber] = (),
) -> None:
    """Serve a model and its adapters over HTTP, with OpenAI's interface and Ollama's (`docs/serving.md`).

    Args:
        model: the base: a directory, a GGUF file or a hub id.
        adapters: a folder of adapters, each a folder of its own, whose name it is asked by.
        name: the base's name in requests; by default the last part of `model`.
        host: the name or address to listen on. Others than this machine can reach it only with a key.
        port: the port; 0 takes a free one.
        key_file: a file of keys, one a line, that nobody else may read.
        admin_key_file: keys of the routes that load and unload adapters; without it there are no such routes.
        allowed_hosts: names that the server is called by, besides `localhost` and addresses.
        allowed_origins: origins of web pages of other sites that may call it.
        adapter_memory: bytes that adapters may take in memory.
        adapter_dtype: FLOAT32 or BFLOAT16, in which the factors of adapters are held.
        pinned: names of adapters that are loaded at the start and stay in memory.
        cache_memory: bytes that keys and values may take.
        method: how the base is held: QLORA quantised, else in the compute dtype. By default as when the adapters were
            trained, where all whose runs say so agree, else in the compute dtype; a warning names those that were
            trained beside another.
        compute: device and dtype.
        on_start: called as soon as requests are taken.
        stop: asked several times a second; true ends the server as a signal does.
        subscribers: called with every event: how far loading is.

    Raises:
        ModelError, AdapterError, ConfigError, OutputError: whatever cannot be used.
        Ended: a signal has asked the program to stop; the requests under way have been answered.
        Interrupted: a signal has asked for it, and requests that took too long were cancelled.
    """
    check_types(serve, locals())
    check_least(0, {"adapter_memory": adapter_memory, "cache_memory": cache_memory})
    held = choice(Dtype, adapter_dtype, "adapter_dtype")
    if held is Dtype.FLOAT16:
        raise ConfigError("adapter_dtype: adapters are held in float32 or bfloat16, and not in float16")
    request = ServeRequest(
        model=str(model),
        adapters=None if adapters is None else Path(adapters),
        name=name,
        host=host,
        port=port,
        key_file=None if key_file is None else Path(key_file),
        admin_key_file=None if admin_key_file is None else Path(admin_key_file),
        allowed_hosts=tuple(allowed_hosts),
        allowed_origins=tuple(allowed_origins),
        adapter_memory=adapter_memory,
        adapter_dtype=held,
        pinned=tuple(pinned),
        cache_memory=cache_memory,
        method=None if method is None else choice(Method, method, "method"),
        compute=compute or ComputeSection(),
    )
    serve_request(request, broadcast(subscribers), on_start=on_start, stop=stop)


def serve_request(
    request: ServeRequest,
    emit: Subscriber,
    *,
    on_start: Callable[[Serving], None] = lambda serving: None,
    stop: Callable[[], bool] = lambda: False,
) -> None:
    """Carry out a request, as `serve` says."""
    require_packages()
    from veneer.serving.build import open_server

    server, models = open_server(request, emit)
    asked = threading.Event()
    with deferred(asked.set, NOTICE), loaded_objects_left_out():
        ended = _until(server, lambda: asked.is_set() or stop(), lambda: on_start(Serving(server.url, models)))
        if stop_signalled():
            if ended:
                raise Ended("the server was asked to stop; all requests under way have been answered")
            raise Interrupted("the server was asked to stop; requests that took too long were cancelled")


def require_packages() -> None:
    """Raise ConfigError where what the server stands on is not installed."""
    missing = [name for name in PACKAGES if not installed(name)]
    if missing:
        raise ConfigError(f"the server needs {', '.join(missing)}, not installed here: pip install 'veneer[serve]'")


def _until(server: HttpServer, stop: Callable[[], bool], started: Callable[[], None]) -> bool:
    """Serve until `stop` says so, or until the server fails; returns whether all requests under way ended."""
    ended = False
    try:
        server.start()
        started()
        while not stop():
            if not server.alive:
                raise ConfigError("the server has failed; what was printed above says why")
            time.sleep(CHECK_SECONDS)
    finally:
        ended = server.stop()
    return ended
