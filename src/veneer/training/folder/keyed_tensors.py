"""Tensors that a run computed once, in a file under a digest of everything that they depend on."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from veneer.events import Note, Subscriber
from veneer.io.files import atomic_file
from veneer.text.strict_json import to_text

KEY, CONTENT = "key", "content"


def key_of(depends_on: Mapping[str, Any]) -> str:
    """A digest of the values that tensors depend on, given as JSON values by name."""
    return hashlib.blake2b(to_text(depends_on, sort_keys=True).encode(), digest_size=16).hexdigest()


def write_under(file: Path, key: str, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors atomically.

    Raises:
        OutputError: the file cannot be written.
    """
    with atomic_file(file) as partial:
        # One entry: safetensors writes several in an order that differs from process to process.
        save_file(dict(tensors), partial, metadata={KEY: f"{key} {_content(tensors)}"})


def _content(tensors: Mapping[str, Tensor]) -> str:
    """A digest of the bytes of tensors."""
    state = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(tensors.items()):
        state.update(f"{name}\0{tensor.dtype}\0{list(tensor.shape)}\0".encode())
        state.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return state.hexdigest()


def read_under(file: Path, key: str, names: Sequence[str], what: str, emit: Subscriber) -> dict[str, Tensor] | None:
    """The tensors of a file that was written under this key; None if there is no such file, or it is damaged.

    Args:
        key: the digest of what they depend on now (`key_of`).
        names: the names of the tensors.
        what: the words for what is computed again if the file is damaged, for a note.
        emit: receives that note.
    """
    if not file.is_file():
        return None
    try:
        with safe_open(file, framework="pt", device="cpu") as stored:
            metadata = stored.metadata() or {}
            of, _, content = metadata.get(KEY, "").partition(" ")
            content = content or metadata.get(CONTENT, "")  # earlier versions had an entry for it
            # Files of versions that wrote no digest of the content are computed again.
            if of != key or not content:
                return None
            tensors = {name: stored.get_tensor(name) for name in {*names, *stored.keys()}}
        damage = None if _content(tensors) == content else "its numbers differ from those that were written"
    except (SafetensorError, OSError) as error:
        damage = str(error)
    if damage is not None:
        emit(Note(message=f"{file} is damaged ({damage}): {what} computed again"))
        return None
    return {name: tensors[name] for name in names}
