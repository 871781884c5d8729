"""A common start for the processes of a run: rank 0 chooses and restores, and the others get its results."""

from __future__ import annotations

import json
from dataclasses import asdict

import torch
from torch import Tensor

from veneer.config import ComputeSection, RunConfig
from veneer.enums import Sharding
from veneer.errors import ConfigError
from veneer.events import Level, Note, Subscriber
from veneer.machine.hardware import resolve_device
from veneer.processes.group import Group
from veneer.processes.ragged import from_first
from veneer.processes.ranks import Ranks
from veneer.text.strict_json import to_text
from veneer.training.folder.progress import Progress
from veneer.training.optimizers.base import Optimizer
from veneer.training.trainable import Trainable

CHOICES = "choices"
"""The key under which rank 0 publishes its choices."""


def with_lanes(config: RunConfig, ranks: Ranks, emit: Subscriber) -> RunConfig:
    """The configuration with its lanes. If they are left open, there are as many as processes, rounded up to a power of
    two."""
    lanes = config.train.lanes
    if lanes == "auto":
        lanes = 1 << (ranks.world - 1).bit_length()
    if ranks.first and lanes < ranks.world:
        idle = ranks.world - lanes
        message = (
            f"train.lanes is {lanes} and the processes are {ranks.world}: {idle} of them have nothing to train (more "
            "lanes would be a different run)"
        )
        emit(Note(message=message, level=Level.WARNING))
    if ranks.first and lanes > 1:
        sharded = config.compute.sharding is Sharding.FULL
        emit(Note(message=(sharded_sentence if sharded else lanes_sentence)(lanes, ranks.world)))
    return config.changed("train", {"lanes": lanes})


def lanes_sentence(lanes: int, world: int) -> str:
    """A sentence on the reproducibility of a run on several processes, or with several lanes."""
    processes = "1 process" if world == 1 else f"{world} processes"
    return (
        f"{lanes} lanes on {processes}: with the same lanes and threads a process, any number of processes makes the "
        "same bytes on processors of one kind, and the same result to rounding elsewhere"
    )


def sharded_sentence(lanes: int, world: int) -> str:
    """A sentence on the reproducibility of a run whose weights are in parts if it has several processes."""
    processes = "1 process" if world == 1 else f"{world} processes, each with a part of every tensor"
    return (
        f"{lanes} lanes on {processes} (compute.sharding=full): any number of processes makes the same result up to "
        "rounding, but not the same bytes"
    )


def with_own_device(compute: ComputeSection, ranks: Ranks) -> ComputeSection:
    """The device of one of several processes: each has its own GPU, by its number on the host.

    Raises:
        ConfigError: the setting names one GPU for all of them, or the host has too few.
    """
    device = compute.device
    if not ranks.many or device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        return compute
    if device not in ("auto", "cuda"):
        raise ConfigError(
            f"compute.device {device!r} names one GPU and the run has {ranks.local_world} processes on {ranks.host}, "
            "each with its own; use cuda, or auto"
        )
    own = str(resolve_device(f"cuda:{ranks.local_rank}"))
    return compute.model_copy(update={"device": own})


def refuse_alone(config: RunConfig, ranks: Ranks) -> None:
    """Refuse what only a single process can do.

    Raises:
        ConfigError: the run asks for it.
    """
    if ranks.many and config.train.time_limit is not None:
        raise ConfigError(
            f"train.time_limit is measured on a single process and the run has {ranks.world}; give train.steps or "
            "train.epochs"
        )


def share(group: Group, trainable: Trainable, optimizer: Optimizer) -> None:
    """Give every process rank 0's weights and optimiser state."""
    if group.ranks.many:
        for tensor in (*trainable.named().values(), *optimizer.tensors().values()):
            _share_tensor(group, tensor)


def shared_progress(group: Group, progress: Progress) -> Progress:
    """Rank 0's position of the run, on every process."""
    if not group.ranks.many:
        return progress
    return Progress(**json.loads(from_first(group, to_text(asdict(progress)).encode())))


def _share_tensor(group: Group, tensor: Tensor) -> None:
    whole = tensor.detach().contiguous()
    group.broadcast(whole)
    if whole.data_ptr() != tensor.data_ptr():
        tensor.detach().copy_(whole)
