"""Builds a server from a `ServeRequest`: loads the model, and puts together everything that requests need."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Sequence
from contextlib import ExitStack
from hashlib import sha256

import torch

from veneer.adapters.files.origin import computes
from veneer.assistant.assistant import Assistant
from veneer.assistant.load import load_assistant
from veneer.assistant.request import AssistantRequest
from veneer.errors import ConfigError, ModelError, reading
from veneer.events import Stage, Subscriber
from veneer.generation.build import build_engine
from veneer.generation.engine_thread import EngineThread
from veneer.http_server.guard import Access
from veneer.http_server.keys import read_keys
from veneer.http_server.limits import ServerLimits
from veneer.http_server.server import HttpServer, check_free, check_host
from veneer.io.checkpoint import model_name
from veneer.io.digests import file_digest
from veneer.io.token_bytes import token_bytes
from veneer.machine.hardware import resolve_dtype
from veneer.serving.app import build_app
from veneer.serving.grammar import Grammars
from veneer.serving.metrics import Metrics
from veneer.serving.model_names import ModelNames
from veneer.serving.outbox import Outbox
from veneer.serving.prompts import PromptEncoder
from veneer.serving.request import ServeRequest
from veneer.serving.served_adapters.catalogue import AdapterCatalogue
from veneer.serving.served_adapters.folder import AdapterFolder, adapter_names, check_pinned
from veneer.serving.served_adapters.held_base import HeldBase, load_held_base, warning_loader
from veneer.serving.served_adapters.loading import adapter_loader
from veneer.serving.service import Service

_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://([a-z0-9_.-]+|\[[0-9a-f:]+\])(:[0-9]{1,5})?")


def open_server(request: ServeRequest, emit: Subscriber) -> tuple[HttpServer, tuple[str, ...]]:
    """Load a model and listen on the port. Nothing is answered before `HttpServer.start`.

    Returns:
        The server, and the names of the models.

    Raises:
        ModelError, AdapterError, ConfigError, OutputError: the model, an adapter, a setting or an output cannot be
            used.
    """
    access = access_of(request)
    if request.pinned and request.adapters is None:
        raise ConfigError(f"--pin {request.pinned[0]}: there are no adapters to pin; give their folder with --adapters")
    name = request.name or model_name(request.model)
    if request.adapters is not None:
        # Loading the model may take minutes.
        names = adapter_names(request.adapters)
        check_pinned(request.adapters, names, request.pinned)
        _check_base_name(name, names)
    check_free(request.host, request.port)
    held = load_base(request, emit)
    assistant, catalogue = held.assistant, None
    if request.adapters is not None:
        dtype = resolve_dtype(request.adapter_dtype, torch.device("cpu"))
        loader = warning_loader(
            adapter_loader(assistant.model, tokenizer=assistant.tokenizer, base_files=assistant.files, dtype=dtype),
            held,
        )
        catalogue = AdapterFolder(request.adapters, loader, request.adapter_memory, request.pinned)
        with Stage(emit, "loading pinned adapters", total=len(request.pinned), unit="adapters") as stage:
            catalogue.load_pinned(stage.advance)
    service = build_service(assistant, name, catalogue, cache_bytes=request.cache_memory)
    with ExitStack() as unfinished:
        unfinished.callback(service.engine.close)
        server = server_of(service, access, host=request.host, port=request.port)
        unfinished.pop_all()
    return server, service.models.all()


def load_base(request: ServeRequest, emit: Subscriber) -> HeldBase:
    """Load the base of a server. It is held in the form that its adapters were trained with, if they agree on one
    and the request names no other.

    Raises:
        ModelError, ConfigError: the base cannot be used, or the folder of adapters is empty.
    """
    base = AssistantRequest(model=request.model, method=request.method, compute=request.compute)
    if request.adapters is None:
        return HeldBase(load_assistant(base, emit))
    return load_held_base(base, request.adapters, adapter_names(request.adapters), emit)


def server_of(service: Service, access: Access, *, host: str = "127.0.0.1", port: int = 0) -> HttpServer:
    """A server of a service, for the clients that `access` admits. It raises the same errors as `HttpServer`."""
    return HttpServer(build_app(service, access), service, with_key=access.keys is not None, host=host, port=port)


def access_of(request: ServeRequest) -> Access:
    """Who may talk to the server.

    Raises:
        ConfigError: a key file cannot be used, the server would be open to other machines without a key, or an origin
            is not valid.
    """
    check_host(request.host, with_key=request.key_file is not None)
    names = {request.host.lower(), socket.gethostname().lower(), *(name.lower() for name in request.allowed_hosts)}
    return Access(
        hosts=frozenset(names),
        origins=frozenset(map(_origin, request.allowed_origins)),
        keys=None if request.key_file is None else read_keys(request.key_file),
        admin_keys=None if request.admin_key_file is None else read_keys(request.admin_key_file),
    )


def _origin(text: str) -> str:
    """An origin in the form in which browsers write it."""
    origin = text.rstrip("/").lower()
    if _ORIGIN.fullmatch(origin) is None:
        raise ConfigError(f"--allowed-origin {text}: must be an origin as https://app.example or http://localhost:3000")
    return origin.removesuffix(":443" if origin.startswith("https:") else ":80")


def build_service(
    assistant: Assistant,
    name: str,
    catalogue: AdapterCatalogue | None,
    *,
    cache_bytes: int,
    limits: ServerLimits | None = None,
) -> Service:
    """Put an assistant and its adapters together for the routes, and start the engine's thread.

    Args:
        assistant: the base, without an adapter.
        name: the base's name in requests.
        catalogue: the adapters; None serves the base alone.
        cache_bytes: the bytes that keys and values may take.
        limits: the limits on what a client may use.

    Raises:
        ConfigError: an adapter has the base's name.
    """
    names = ModelNames(name, catalogue)
    _check_base_name(name, names.all()[1:])
    limits = limits or ServerLimits()
    engine = build_engine(
        assistant.model,
        decoder=assistant.tokenizer,
        stop_ids=assistant.stop_ids,
        adapters=catalogue,
        cache_bytes=cache_bytes,
    )
    outbox = Outbox()
    engine_thread = EngineThread(engine, after_step=outbox.send)
    spec = assistant.model.spec
    return Service(
        engine=engine_thread,
        outbox=outbox,
        spec=spec,
        stop_ids=assistant.stop_ids,
        prompts=PromptEncoder(assistant.tokenizer, assistant.encoder, spec.max_positions, engine.longest),
        grammars=Grammars(assistant.tokenizer, spec.vocab_size, assistant.stop_ids, limits.schema_bytes),
        token_bytes=token_bytes(assistant.tokenizer),
        models=names,
        metrics=Metrics(name, engine_thread.stats),
        limits=limits,
        created=int(time.time()),
        base_digest=base_digest(assistant),
        base_form=assistant.form.text,
    )


def _check_base_name(name: str, adapters: Sequence[str]) -> None:
    """Raise ConfigError if an adapter has the base's name."""
    if name in adapters:
        raise ConfigError(f"an adapter is called {name!r}, as the base; give the base another name with --name")


def base_digest(assistant: Assistant) -> str:
    """The digest of what a base computes. It covers the files that determine this, the dtype in which the base is held,
    and how its linear layers were quantised at loading, if they were.

    Raises:
        ModelError: a file cannot be read.
    """
    with reading(ModelError):
        files = sorted(f"{file.name} {file_digest(file)}" for file in assistant.files if computes(file.name))
    form = filter(None, (str(assistant.model.dtype), assistant.form.text))
    return sha256("\n".join([*files, *form]).encode()).hexdigest()
