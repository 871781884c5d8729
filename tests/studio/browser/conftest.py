"""The studio whose pages are opened in Debian's Chromium: nothing is asked of another machine and no error is said."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers.run_folders.run_logs import write_run
from helpers.servers.browsing import chromium
from helpers.servers.studios import Opened, studio


@pytest.fixture(scope="package")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="package")
def opened(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[Opened]:
    """A studio with three runs; the tests of all pages add files, jobs and runs of their own."""
    root = tmp_path_factory.mktemp("browser") / "runs"
    for name in ("sweep/low", "sweep/high", "plain"):
        write_run(root / name, 30, config=f"model: {tiny_model}\nmethod: lora\nlora:\n  rank: {len(name)}\n")
    with studio(root, tiny_model) as found:
        yield found
