"""Tensors that a run has computed once, in a file under a digest of all that they depend on."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from veneer.events import Note, Subscriber
from veneer.io.files import atomic_file
from veneer.strict_json import to_text

KEY = "key"


def key_of(depends_on: Mapping[str, Any]) -> str:
    """A digest of what tensors depend on, given by name as values of JSON."""
    return hashlib.blake2b(to_text(depends_on, sort_keys=True).encode(), digest_size=16).hexdigest()


def write_under(file: Path, key: str, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors whole, or not at all.

    Raises:
        OutputError: the file cannot be written.
    """
    with atomic_file(file) as partial:
        save_file(dict(tensors), partial, metadata={KEY: key})


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
            if (stored.metadata() or {}).get(KEY) != key:
                return None
            return {name: stored.get_tensor(name) for name in names}
    except (SafetensorError, OSError) as error:
        emit(Note(message=f"{file} is damaged ({error}): {what} computed again"))
        return None
