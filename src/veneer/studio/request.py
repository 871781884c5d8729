"""A studio as it is asked for, and what its caller is told once it serves."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from veneer.config import ComputeSection
from veneer.enums import JobCode

PORT = 8080


@dataclass(frozen=True, kw_only=True, slots=True)
class StudioRequest:
    """A studio that is asked for."""

    folder: Path
    """The folder of the runs; it is made where there is none."""
    models: tuple[str, ...] = ()
    """Base models that jobs may name, besides those of the runs in the folder. The first one is loaded for chatting."""
    host: str = "127.0.0.1"
    port: int = PORT
    key_file: Path | None = None
    """Keys of the studio, one a line; None makes a key in the folder."""
    allowed_hosts: tuple[str, ...] = ()
    """Names that the studio is called by, besides `localhost` and addresses."""
    devices: tuple[str, ...] = ()
    """Devices that jobs are carried out on, each by a worker of its own; empty for all GPUs, or the CPU."""
    compute: ComputeSection = field(default_factory=ComputeSection)
    """Device and dtype of the model that is chatted with."""
    job_code: JobCode = JobCode.REFUSE
    """Whether jobs may bring rewards that are Python or programs."""


@dataclass(frozen=True, slots=True)
class StudioRunning:
    """A studio that has begun to serve."""

    url: str
    link: str
    """Opens the pages in one browser, once."""
    key_file: Path
    """Holds the keys for programs."""
