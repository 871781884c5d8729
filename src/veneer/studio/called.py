"""What users call the paths that a job names. A client gives names, and learns none of this machine's paths."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def called(value: Any, names: Mapping[str, str]) -> Any:
    """Plain values in which paths are what users call them."""
    if isinstance(value, Mapping):
        return {key: called(one, names) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [called(one, names) for one in value]
    return names.get(value, value) if isinstance(value, str) else value


def without_paths(message: str, called: Mapping[str, str]) -> str:
    """A text in which paths stand as their users call them."""
    for path, name in called.items():
        message = message.replace(path, name)
    return message
