"""Tensors in parts, as files that any number of processes can open, by torch's distributed checkpoints (DCP).

Each process writes safetensors files with its part of every tensor, and where in the tensor the part begins. Each
process reads only the parts that it needs, by itself. No file is a pickle: DCP's own format contains one, but its
writer of Hugging Face's files does not.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from veneer.errors import CheckpointError, OutputError, listing
from veneer.io.files import reported
from veneer.planning.lanes import PART_FILE
from veneer.processes.group import Group

AT_ONCE = PART_FILE
"""The most bytes of a process's file, unless one tensor is larger, and of whole tensors that are read at a time."""


def write_parts(folder: Path, tensors: Mapping[str, Tensor], group: Group) -> None:
    """Write this process's parts, together with the others.

    Args:
        folder: an existing folder that all processes see.
        tensors: parts that know their places, and whole tensors, which all processes hold.
        group: the processes.

    Raises:
        OutputError: this process does not see the folder, or cannot write.
        RankLost: another process is gone, or could not write.
    """
    # Here and below: imports of 0.7 s and 50 MB, only for runs in parts.
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
    from torch.distributed.checkpoint.state_dict_saver import save

    if not folder.is_dir():
        raise OutputError(
            f"{folder} is not seen by {group.ranks.name}. With compute.sharding=full every process writes its part of "
            "a checkpoint: give an output folder on a disk that all hosts share"
        )
    # A file is built in memory.
    files = _files(tensors, AT_ONCE * group.ranks.world)
    writer = HuggingFaceStorageWriter(str(folder), fqn_to_index_mapping=files, save_distributed=True)
    alone = not group.ranks.many
    with reported(folder), group.reaching(), _by_intent():
        try:
            save(dict(tensors), storage_writer=writer, process_group=group.process_group, no_dist=alone)
        except CheckpointException as error:
            # It is not an Exception; its message names the processes that have failed, and why.
            raise _failure(folder, {rank: str(failure[0]) for rank, failure in error.failures.items()}) from None


def _files(tensors: Mapping[str, Tensor], most: int) -> dict[str, int]:
    """The number of each tensor's file, such that only a file with a single tensor may have more than `most` bytes over
    all processes."""
    files, number, size = {}, 1, 0
    for name, tensor in tensors.items():
        if size and size + tensor.nbytes > most:
            number, size = number + 1, 0
        files[name], size = number, size + tensor.nbytes
    return files


def _failure(folder: Path, messages: Mapping[int, str]) -> Exception:
    """The error for the failures that processes have reported while writing their parts."""
    if any("gloo" in text for text in messages.values()):
        return RuntimeError(" ".join(messages.values()))
    lines = listing(f"rank {rank}: {text}" for rank, text in sorted(messages.items()))
    return OutputError(f"{folder}: parts of a checkpoint cannot be written by:\n{lines}")


def read_parts(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Read this process's parts into their existing memory.

    Args:
        folder: a folder that `write_parts` has written, with any number of processes.
        tensors: parts that know their places, or whole tensors.

    Raises:
        CheckpointError: a tensor is missing, or has another shape.
    """
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.state_dict_loader import load

    try:
        with _by_intent():
            load(dict(tensors), storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=True)
    except (CheckpointException, RuntimeError, ValueError, OSError) as error:
        raise CheckpointError(f"{folder} does not fit this run: {error}") from error


@contextmanager
def _by_intent() -> Iterator[None]:
    """Suppress torch's warnings that a process reads or writes by itself, which is intended, and of its own use of
    TypedStorage (torch 2.9 and 2.10)."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="TypedStorage is deprecated", category=UserWarning)
        warnings.filterwarnings("ignore", message="torch.distributed is disabled", category=UserWarning)
        yield


def whole_tensors(folder: Path, shapes: Mapping[str, Sequence[int]]) -> Iterator[tuple[str, Tensor]]:
    """Whole float32 tensors by name, a few at a time.

    Args:
        folder: a folder that `write_parts` has written.
        shapes: the shape of each tensor.

    Raises:
        CheckpointError: a tensor is missing, or has another shape.
    """
    some: dict[str, Tensor] = {}
    for name, shape in shapes.items():
        some[name] = torch.empty(tuple(shape))
        if sum(tensor.nbytes for tensor in some.values()) >= AT_ONCE:
            read_parts(folder, some)
            yield from some.items()
            some = {}
    if some:
        read_parts(folder, some)
        yield from some.items()
