"""Processes as torchrun starts them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ranks import Forker


@pytest.fixture(scope="session")
def forker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forker]:
    """The command line in groups of processes."""
    found = Forker(tmp_path_factory.mktemp("ranks"))
    yield found
    found.close()
