"""The header of a safetensors file, where the library that reads it is more lenient than it should be."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

LONGEST = 100_000_000
"""Longest header in bytes that the safetensors library reads."""


def repeated_names(path: Path) -> list[str]:
    """Names that stand more than once in the header of a safetensors file.

    The library takes the last entry of a name, and says nothing. A damaged header has no names here: the library
    refuses it with its reason.

    Raises:
        OSError: the file cannot be read.
    """
    text = _header(path)
    repeated: list[str] = []

    def collect(pairs: list[tuple[str, object]]) -> None:
        counts = Counter(name for name, _ in pairs)
        if len(counts) != len(pairs):
            repeated.extend(sorted(name for name, count in counts.items() if count > 1))

    try:
        json.loads(text, object_pairs_hook=collect)
    except (ValueError, RecursionError):
        return []
    return repeated


def tensor_names(path: Path) -> list[str]:
    """Names of the tensors in a safetensors file; a damaged header has none, as in `repeated_names`.

    Raises:
        OSError: the file cannot be read.
    """
    try:
        entries = json.loads(_header(path))
    except (ValueError, RecursionError):
        return []
    return [name for name in entries if name != "__metadata__"] if isinstance(entries, dict) else []


def _header(path: Path) -> bytes:
    """The JSON of a header, which nothing has looked at; empty where it is said to be too long."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        return file.read(length) if length <= LONGEST else b""
