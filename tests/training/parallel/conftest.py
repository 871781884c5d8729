"""Processes as torchrun starts them."""

from __future__ import annotations

import pytest

from forking import ForkServer
from ranks import Forker


@pytest.fixture(scope="session")
def forker(tmp_path_factory: pytest.TempPathFactory, forks: ForkServer) -> Forker:
    """The command line in groups of processes."""
    return Forker(tmp_path_factory.mktemp("ranks"), forks)
