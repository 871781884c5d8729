"""Which process of a run this one is. Its launcher says so with torchrun's environment variables, which are read only
here.

torchrun sets them (https://docs.pytorch.org/docs/stable/elastic/run.html), and so do Kubeflow, Ray's TorchTrainer and
veneer's own `--devices`. A process that was started without them is alone.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass

from veneer.errors import ConfigError, listing

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
"""The variables that must be set if there are several processes; `LOCAL_WORLD_SIZE` and torchrun's own are optional.
If LOCAL_WORLD_SIZE is missing, LOCAL_RANK + 1 is taken for it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ranks:
    """The place of a process among those of its run."""

    rank: int = 0
    """The number of the process; rank 0 shows progress and writes."""
    world: int = 1
    """The number of all processes."""
    local_rank: int = 0
    """The number of the process on its host."""
    local_world: int = 1
    """The number of processes on its host."""
    address: str = ""
    """The host where processes meet."""
    port: int = 0
    """The port where they meet."""
    agent: bool = False
    """Whether the launcher keeps the meeting place; otherwise rank 0 does."""
    restarts: int = 0
    """How often the launcher has restarted the run."""
    host: str = ""
    """The name of this host."""

    @property
    def first(self) -> bool:
        """Whether this is the process that shows progress and writes."""
        return self.rank == 0

    @property
    def many(self) -> bool:
        """Whether there are other processes."""
        return self.world > 1

    @property
    def name(self) -> str:
        """The name of the process in messages."""
        return f"rank {self.rank} on {self.host}"

    @property
    def meeting_place(self) -> str:
        """Where processes meet, as messages call it."""
        return f"{self.address}:{self.port}"


ONE_RANK = Ranks()
"""A process without others."""


def launched() -> Ranks:
    """The place of this process, according to its launcher.

    Raises:
        ConfigError: the launcher says it incompletely, or with impossible values.
    """
    return ranks_in(os.environ)


def ranks_in(variables: Mapping[str, str]) -> Ranks:
    """The place of a process with these environment variables. The errors are those of `launched`."""
    if "WORLD_SIZE" not in variables or "RANK" not in variables:
        return ONE_RANK
    missing = [name for name in VARIABLES if name not in variables]
    world, local = _number(variables, "WORLD_SIZE"), _number(variables, "LOCAL_RANK")
    if world == 1:
        return Ranks(restarts=_number(variables, "TORCHELASTIC_RESTART_COUNT"), host=socket.gethostname())
    if missing:
        raise ConfigError(
            f"this process is one of {world} by WORLD_SIZE, and its launcher has not set:\n{listing(missing)}\n"
            "Start it with torchrun, or with `veneer train --devices`."
        )
    found = Ranks(
        rank=_number(variables, "RANK"),
        world=world,
        local_rank=local,
        local_world=_number(variables, "LOCAL_WORLD_SIZE", local + 1),
        address=variables["MASTER_ADDR"],
        port=_number(variables, "MASTER_PORT"),
        agent=variables.get("TORCHELASTIC_USE_AGENT_STORE") == "True",
        restarts=_number(variables, "TORCHELASTIC_RESTART_COUNT"),
        host=socket.gethostname(),
    )
    if not 0 < found.port < 65536:
        raise ConfigError(f"MASTER_PORT is {found.port}; ports count from 1 to 65535")
    for name, number, of, count in (
        ("RANK", found.rank, "WORLD_SIZE", world),
        ("LOCAL_RANK", local, "LOCAL_WORLD_SIZE", found.local_world),
    ):
        if number >= count:
            raise ConfigError(f"{name} is {number} and {of} {count}; ranks count from 0 to {count - 1}")
    return found


def _number(variables: Mapping[str, str], name: str, default: int = 0) -> int:
    text = variables.get(name, str(default))
    if not text.isdecimal():
        raise ConfigError(f"the environment variable {name} is {text!r}; launchers set it to a number")
    return int(text)


def variables_of(rank: int, world: int, port: int, threads: int) -> dict[str, str]:
    """The environment of a process that is launched on this host: this process's own, and what `launched` reads.

    Args:
        rank: the number of the process.
        world: the number of all processes, which are all on this host.
        port: the port where they meet, which the launcher keeps.
        threads: the CPU threads of each process, unless OMP_NUM_THREADS sets them.
    """
    return {
        "OMP_NUM_THREADS": str(threads),
        # Veneer reports a lost store in one sentence, torch with sixty lines of C++ frames.
        "TORCH_CPP_LOG_LEVEL": "ERROR",
        **os.environ,
        "RANK": str(rank),
        "WORLD_SIZE": str(world),
        "LOCAL_RANK": str(rank),
        "LOCAL_WORLD_SIZE": str(world),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_RESTART_COUNT": "0",
    }
