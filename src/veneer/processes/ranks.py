"""Which process of a run this one is. Whoever launched it says so by torchrun's environment variables, and only here.

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
"""What must be set for a process of several; `LOCAL_WORLD_SIZE` and torchrun's own may be. Without the former a host is
taken to have one process more than the number of this one there."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ranks:
    """The place of a process among those of its run."""

    rank: int = 0
    """The number of the process; 0 is the one that shows progress and writes."""
    world: int = 1
    """The number of all processes."""
    local_rank: int = 0
    """The number of the process on its host."""
    local_world: int = 1
    """The number of processes on its host."""
    address: str = ""
    """The host at which processes meet."""
    port: int = 0
    """The port at which they meet."""
    agent: bool = False
    """Whether the launcher keeps the place where they meet; otherwise rank 0 does."""
    restarts: int = 0
    """How often the launcher has started the run again."""
    host: str = ""
    """The name of this host."""

    @property
    def first(self) -> bool:
        """Whether this is the process that shows progress and writes."""
        return self.rank == 0

    @property
    def many(self) -> bool:
        """Whether there are others."""
        return self.world > 1

    @property
    def name(self) -> str:
        """The process as messages call it."""
        return f"rank {self.rank} on {self.host}"

    @property
    def meeting_place(self) -> str:
        """Where processes meet, as messages call it."""
        return f"{self.address}:{self.port}"


ALONE = Ranks()
"""A process without others."""


def launched() -> Ranks:
    """The place of this process, as its launcher says.

    Raises:
        ConfigError: the launcher says it in part, or what cannot be.
    """
    return ranks_in(os.environ)


def ranks_in(variables: Mapping[str, str]) -> Ranks:
    """The place of a process with these environment variables; arguments and errors as `launched`."""
    if "WORLD_SIZE" not in variables or "RANK" not in variables:
        return ALONE
    missing = [name for name in VARIABLES if name not in variables]
    world, local = _number(variables, "WORLD_SIZE"), _number(variables, "LOCAL_RANK")
    if world == 1:
        return Ranks(restarts=_number(variables, "TORCHELASTIC_RESTART_COUNT"), host=socket.gethostname())
    if missing:
        raise ConfigError(
            f"this process is one of {world} by WORLD_SIZE, and its launcher has not set:\n{listing(missing)}\n"
            "Start it by torchrun, or by `veneer train --devices`."
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
        rank: its number.
        world: the number of all processes, which are on this host.
        port: where they meet, kept by the launcher.
        threads: CPU threads of each, where OMP_NUM_THREADS does not say so.
    """
    return {
        "OMP_NUM_THREADS": str(threads),
        # A store that goes is told in one sentence, and by torch in sixty lines of C++ frames.
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
