"""Checks of a safetensors file's header that the library does not make."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

LONGEST = 100_000_000
"""Longest header in bytes that the safetensors library reads."""


def repeated_names(path: Path) -> list[str]:
    """Names that are more than once in the header of a safetensors file.

    The library silently uses the last entry of a name. A damaged header gives no names here: the library refuses it
    with its reason.

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
    """The unchecked JSON of a header; empty if its stated length is too large."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        return file.read(length) if length <= LONGEST else b""
