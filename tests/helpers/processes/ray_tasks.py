"""Tasks of Ray that tests need: the workers import this module."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

import ray.train

from veneer.errors import VeneerError
from veneer.ray import train_loop
from veneer.run_folder import RunFolder


def half(number: int) -> int:
    """Half of an even number."""
    if number % 2:
        raise VeneerError(f"{number} is odd")
    return number // 2


def die_once(marker: str) -> str:
    """Kill the own worker at the first attempt."""
    path = Path(marker)
    if not path.is_file():
        path.write_text("")
        os.kill(os.getpid(), signal.SIGKILL)
    return "done again"


def die(argument: object) -> None:
    """Kill the own worker."""
    os.kill(os.getpid(), signal.SIGKILL)


def train_loop_killed_once(config: dict[str, Any]) -> None:
    """`train_loop`, in which rank 1 is killed at its first attempt, when there is a checkpoint."""
    marker, folder = Path(config.pop("marker")), RunFolder(Path(config["output"]))
    if ray.train.get_context().get_world_rank() == 1 and not marker.exists():

        def kill() -> None:
            while not folder.checkpoint_steps():
                threading.Event().wait(0.01)
            marker.write_text("")
            os.kill(os.getpid(), signal.SIGKILL)

        threading.Thread(target=kill, daemon=True).start()
    train_loop(config)
