"""Tensors that a run has computed once, in a file under a digest of all that they depend on."""

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
    """A digest of what tensors depend on, given by name as values of JSON."""
    return hashlib.blake2b(to_text(depends_on, sort_keys=True).encode(), digest_size=16).hexdigest()


def write_under(file: Path, key: str, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors whole, or not at all.

    Raises:
        OutputError: the file cannot be written.
    """
    with atomic_file(file) as partial:
        # In one entry: safetensors writes several in an order that changes from process to process.
        save_file(dict(tensors), partial, metadata={KEY: f"{key} {_content(tensors)}"})


def _content(tensors: Mapping[str, Tensor]) -> str:
    """A digest of the bytes of tensors."""
    state = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(tensors.items()):
        state.update(f"{name}\0{tensor.dtype}\0{list(tensor.shape)}\0".encode())
        state.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return state.hexdigest()


def read_under(file: Path, key: str, names: Sequence[str], what: str, emit: Subscriber) -> dict[str, Tensor] | None:
    """The tensors of a file that was written under this key; None where there is none, or it is damaged.

    Args:
        file: the file.
        key: what they depend on now (`key_of`).
        names: names of the tensors.
        what: what is computed again where the file is damaged, in a note.
        emit: told of that.
    """
    if not file.is_file():
        return None
    try:
        with safe_open(file, framework="pt", device="cpu") as stored:
            metadata = stored.metadata() or {}
            of, _, content = metadata.get(KEY, "").partition(" ")
            content = content or metadata.get(CONTENT, "")  # earlier versions had an entry for it
            # Files of versions that kept no digest of the content are made again.
            if of != key or not content:
                return None
            found = {name: stored.get_tensor(name) for name in {*names, *stored.keys()}}
        damage = None if _content(found) == content else "its numbers are not those that were written"
    except (SafetensorError, OSError) as error:
        damage = str(error)
    if damage is not None:
        emit(Note(message=f"{file} is damaged ({damage}): {what} computed again"))
        return None
    return {name: found[name] for name in names}
