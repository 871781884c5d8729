"""Studios over folders of runs, for tests that ask them over HTTP or in a browser."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from openai import OpenAI

from veneer.config import ComputeSection
from veneer.enums import JobCode
from veneer.studio.request import StudioRequest, StudioRunning
from veneer.studio.run import studio_server
from veneer.studio.studio import Studio

CPU = {"compute.device": "cpu", "compute.dtype": "float32", "compute.threads": 1, "lora.rank": 4}
"""Settings of runs that take a second."""


@dataclass
class Opened:
    """A studio that serves."""

    studio: Studio
    running: StudioRunning
    client: OpenAI
    http: httpx.Client


class Records(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(f"{record.levelname}: {record.getMessage()}")


@contextmanager
def logged() -> Iterator[list[str]]:
    """What the studio logs within the block, each with its level."""
    logger, records = logging.getLogger("veneer.studio"), Records()
    logger.addHandler(records)
    try:
        yield records.messages
    finally:
        logger.removeHandler(records)


@contextmanager
def studio(
    folder: Path, *models: Path, job_code: JobCode = JobCode.REFUSE, devices: tuple[str, ...] = ()
) -> Iterator[Opened]:
    request = StudioRequest(
        folder=folder, models=tuple(map(str, models)), port=0, compute=ComputeSection(device="cpu", dtype="float32"),
        job_code=job_code, devices=devices,
    )  # fmt: skip
    with studio_server(request) as (_, made, running):
        key = running.key_file.read_text().strip()
        headers = {"authorization": f"Bearer {key}"}
        with (
            OpenAI(base_url=f"{running.url}/v1", api_key=key, max_retries=0) as client,
            httpx.Client(base_url=running.url, headers=headers, timeout=60, trust_env=False) as http,
        ):
            yield Opened(made, running, client, http)
