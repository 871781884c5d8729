"""A Ray cluster of two nodes on this machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.processes.ray_nodes import Nodes

TESTS = Path(__file__).parents[1]


@pytest.fixture(scope="session", autouse=True)
def environment() -> None:
    """What nodes and workers inherit: Ray tells its makers nothing, and workers import the tests' modules."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["PYTHONPATH"] = os.pathsep.join([str(TESTS.parent / "src"), str(TESTS)])


@pytest.fixture(scope="session")
def two_nodes(environment: None) -> Iterator[Nodes]:
    """Two nodes with a CPU each, which tests leave as they are."""
    with Nodes(2) as nodes:
        yield nodes
