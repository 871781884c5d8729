"""Ray clusters of several nodes on this machine, each with one CPU."""

from __future__ import annotations

from types import TracebackType
from typing import Any

from ray.cluster_utils import Cluster

import ray

OPTIONS: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 100 << 20, "include_dashboard": False}


class Nodes:
    """Several nodes, the first of which keeps the cluster together."""

    def __init__(self, count: int):
        self._cluster = Cluster(initialize_head=True, head_node_args=OPTIONS)
        self._more = [self._cluster.add_node(**OPTIONS) for _ in range(count - 1)]

    @property
    def address(self) -> str:
        """Where drivers connect."""
        return str(self._cluster.address)

    def lose(self) -> None:
        """Kill a node that is not the first, with everything that runs on it."""
        self._cluster.remove_node(self._more.pop(), allow_graceful=False)

    def __enter__(self) -> Nodes:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        ray.shutdown()
        self._cluster.shutdown()
