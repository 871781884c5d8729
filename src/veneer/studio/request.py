"""The request to open a studio, and the information that the caller gets once it serves."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from veneer.config import ComputeSection
from veneer.enums import JobCode

PORT = 8080


@dataclass(frozen=True, kw_only=True, slots=True)
class StudioRequest:
    """The request to open a studio."""

    folder: Path
    """The folder of the runs. It is created if it does not exist."""
    models: tuple[str, ...] = ()
    """Base models that jobs may name, besides those of the runs in the folder. The first one is loaded for chatting."""
    host: str = "127.0.0.1"
    port: int = PORT
    key_file: Path | None = None
    """A file with the keys of the studio, one per line. With None, a key is created in the folder."""
    allowed_hosts: tuple[str, ...] = ()
    """Host names by which the studio is reached, in addition to `localhost` and addresses."""
    devices: tuple[str, ...] = ()
    """Devices for the jobs, each with a worker of its own. Empty means all GPUs, or the CPU if there are none."""
    compute: ComputeSection = field(default_factory=ComputeSection)
    """Device and dtype of the model for the chat."""
    job_code: JobCode = JobCode.REFUSE
    """Whether jobs may contain rewards that are Python code or programs."""


@dataclass(frozen=True, slots=True)
class StudioRunning:
    """A studio that has begun to serve."""

    url: str
    link: str
    """A link that opens the pages in one browser. It works once."""
    key_file: Path
    """The file with the keys for programs."""
