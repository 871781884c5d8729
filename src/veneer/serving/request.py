"""A server as it is asked for, and what its caller is told once it serves."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from veneer.config import ComputeSection
from veneer.enums import Dtype, Method

PORT = 8000
MEMORY = 10**9
"""Bytes that adapters may take, and as many that keys and values may, where nothing else is said."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ServeRequest:
    """A server that is asked for."""

    model: str
    """The base: a directory, a GGUF file or a hub id."""
    adapters: Path | None = None
    """A folder of adapters, each a folder of its own, whose name it is asked by."""
    name: str | None = None
    """The base's name in requests; None takes the last part of `model`."""
    host: str = "127.0.0.1"
    port: int = PORT
    key_file: Path | None = None
    """Keys of the server, one a line."""
    admin_key_file: Path | None = None
    """Keys of the routes that load and unload adapters; without it there are none."""
    allowed_hosts: tuple[str, ...] = ()
    """Names that the server is called by, besides `localhost` and addresses."""
    allowed_origins: tuple[str, ...] = ()
    """Origins of web pages of other sites that may call it."""
    adapter_memory: int = MEMORY
    """Bytes that adapters may take in memory."""
    adapter_dtype: Dtype = Dtype.FLOAT32
    """FLOAT32 or BFLOAT16, in which the factors of adapters are held."""
    pinned: tuple[str, ...] = ()
    """Names of adapters that are loaded at the start and stay in memory."""
    cache_memory: int = MEMORY
    """Bytes that keys and values may take."""
    method: Method | None = None
    """How the base is held; None takes what the runs of the adapters recorded, where all that have a record agree, else
    LORA, in the compute dtype."""
    compute: ComputeSection = field(default_factory=ComputeSection)
    """Device and dtype."""


@dataclass(frozen=True, slots=True)
class Serving:
    """A server that has begun to serve."""

    url: str
    models: tuple[str, ...]
    """Names of the base and of the adapters."""
