"""`veneer serve`: load a model and its adapters, and answer requests until the program is stopped."""

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
from veneer.serving.request import DEFAULT_MEMORY_BYTES, DEFAULT_PORT, ServeRequest, Serving

if TYPE_CHECKING:
    from veneer.http_server.server import HttpServer

SERVER_PACKAGES = ("starlette", "uvicorn", "llguidance", "prometheus_client")
CHECK_STOP_SECONDS = 0.2
STOP_NOTICE = "running requests are still answered, and no new ones are accepted; press Ctrl-C again to stop at once"


def serve(
    model: str | Path,
    *,
    adapters: str | Path | None = None,
    name: str | None = None,
    host: str = "127.0.0.1",
    port: int = DEFAULT_PORT,
    key_file: str | Path | None = None,
    admin_key_file: str | Path | None = None,
    allowed_hosts: Sequence[str] = (),
    allowed_origins: Sequence[str] = (),
    adapter_memory: int = DEFAULT_MEMORY_BYTES,
    adapter_dtype: Dtype | str = Dtype.FLOAT32,
    pinned: Sequence[str] = (),
    cache_memory: int = DEFAULT_MEMORY_BYTES,
    method: Method | str | None = None,
    compute: ComputeSection | None = None,
    on_start: Callable[[Serving], None] = lambda serving: None,
    stop: Callable[[], bool] = lambda: False,
    subscribers: Sequence[Subscriber] = (),
) -> None:
    """Serve a model and its adapters over HTTP, with OpenAI's interface and Ollama's (`docs/serving.md`).

    Args:
        model: the base: a directory, a GGUF file or a hub id.
        adapters: a folder of adapters. Each is a folder in it, and requests name it by that folder's name.
        name: the base's name in requests; by default the last part of `model`.
        host: the name or address to listen on. One that other machines can reach needs a key.
        port: the port; 0 chooses a free one.
        key_file: a file of keys, one a line, that no other user may read.
        admin_key_file: a file with the keys of the routes that load and unload adapters; without it there are no such
            routes.
        allowed_hosts: names that clients call the server by, besides `localhost` and addresses.
        allowed_origins: origins of other sites whose web pages may call it.
        adapter_memory: bytes that adapters may take in memory.
        adapter_dtype: the dtype of the adapters' factors in memory: FLOAT32 or BFLOAT16.
        pinned: names of adapters that are loaded at the start and stay in memory.
        cache_memory: bytes that keys and values may take.
        method: how the base is held: with QLORA it is quantised, otherwise it is in the compute dtype. By default it is
            held as when the adapters were trained, if all that record this agree, otherwise in the compute dtype. A
            warning names the adapters that were trained with another form.
        compute: device and dtype.
        on_start: is called as soon as requests are accepted.
        stop: is called several times a second; if it returns true, the server ends as after a signal.
        subscribers: receive every event, such as the progress of loading.

    Raises:
        ModelError, AdapterError, ConfigError, OutputError: the model, the adapters or the settings cannot be used.
        Ended: a signal has stopped the program; all running requests were answered.
        Interrupted: a signal has stopped the program; requests that took too long were cancelled.
    """
    check_types(serve, locals())
    check_least(0, {"adapter_memory": adapter_memory, "cache_memory": cache_memory})
    held = choice(Dtype, adapter_dtype, "adapter_dtype")
    if held is Dtype.FLOAT16:
        raise ConfigError("adapter_dtype float16: must be float32 or bfloat16")
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
    with deferred(asked.set, STOP_NOTICE), loaded_objects_left_out():
        ended = _until(server, lambda: asked.is_set() or stop(), lambda: on_start(Serving(server.url, models)))
        if stop_signalled():
            if ended:
                raise Ended("the server was asked to stop; all running requests were answered")
            raise Interrupted("the server was asked to stop; requests that took too long were cancelled")


def require_packages() -> None:
    """Raise ConfigError if packages that the server needs are not installed."""
    missing = [name for name in SERVER_PACKAGES if not installed(name)]
    if missing:
        raise ConfigError(f"the server needs {', '.join(missing)}, which is not installed: pip install 'veneer[serve]'")


def _until(server: HttpServer, stop: Callable[[], bool], started: Callable[[], None]) -> bool:
    """Serve until `stop` returns true. Returns whether all running requests ended. Raises ConfigError if the server
    fails."""
    ended = False
    try:
        server.start()
        started()
        while not stop():
            if not server.alive:
                raise ConfigError("the server has failed; see the messages above for the cause")
            time.sleep(CHECK_STOP_SECONDS)
    finally:
        ended = server.stop()
    return ended
