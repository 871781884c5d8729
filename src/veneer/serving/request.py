"""The request for a server, and the report to its caller once it serves."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from veneer.config import ComputeSection
from veneer.enums import Dtype, Method

DEFAULT_PORT = 8000
DEFAULT_MEMORY_BYTES = 10**9
"""The default for the bytes of adapters, and for those of keys and values."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ServeRequest:
    """The settings of a server to start."""

    model: str
    """The base: a directory, a GGUF file or a hub id."""
    adapters: Path | None = None
    """A folder of adapters. Each is a folder in it, and requests name it by that folder's name."""
    name: str | None = None
    """The base's name in requests; None means the last part of `model`."""
    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    key_file: Path | None = None
    """A file with the keys of the server, one a line."""
    admin_key_file: Path | None = None
    """A file with the keys of the routes that load and unload adapters; without it there are no such routes."""
    allowed_hosts: tuple[str, ...] = ()
    """Names that clients call the server by, besides `localhost` and addresses."""
    allowed_origins: tuple[str, ...] = ()
    """Origins of other sites whose web pages may call it."""
    adapter_memory: int = DEFAULT_MEMORY_BYTES
    """Bytes that adapters may take in memory."""
    adapter_dtype: Dtype = Dtype.FLOAT32
    """The dtype of the adapters' factors in memory: FLOAT32 or BFLOAT16."""
    pinned: tuple[str, ...] = ()
    """Names of adapters that are loaded at the start and stay in memory."""
    cache_memory: int = DEFAULT_MEMORY_BYTES
    """Bytes that keys and values may take."""
    method: Method | None = None
    """How the base is held. None means as the runs of the adapters recorded it, if all records agree; otherwise LORA,
    in the compute dtype."""
    compute: ComputeSection = field(default_factory=ComputeSection)
    """Device and dtype."""


@dataclass(frozen=True, slots=True)
class Serving:
    """A server that has started to serve."""

    url: str
    models: tuple[str, ...]
    """The names of the base and of the adapters."""
