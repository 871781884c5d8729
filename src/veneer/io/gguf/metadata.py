"""Metadata of a GGUF file with checked types, and the table that says which key is which setting of config.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np

from veneer.errors import ModelError
from veneer.text.json_numbers import is_finite, is_whole

Value = bool | int | float | str | list[bool] | list[int] | list[float] | list[str]
"""The values that a key may hold."""


LARGEST_WHOLE = (1 << 32) - 1
LARGEST = float(np.finfo(np.float32).max)
"""The largest numbers that metadata is written with."""


def beyond_32_bits(values: Mapping[str, Value]) -> list[str]:
    """A sentence for each number that has no place in metadata."""
    return [
        f"{key} would be {value!r}, and GGUF holds {what} there"
        for key, value in values.items()
        for kind, most, what in (
            (int, LARGEST_WHOLE, f"whole numbers up to {LARGEST_WHOLE:,}"),
            (float, LARGEST, f"numbers up to {LARGEST:.3g}"),
        )
        if type(value) is kind and not abs(value) <= most
    ]


class Metadata:
    """Typed access to the metadata: a key that is missing or of another type raises a ModelError that names it."""

    def __init__(self, path: Path, metadata: Mapping[str, Any], architecture: str) -> None:
        self.path = path
        self.metadata = metadata
        self.architecture = architecture

    def key(self, name: str) -> str:
        """The full key of a setting of the architecture."""
        return f"{self.architecture}.{name}"

    def has(self, name: str) -> bool:
        """Whether the file has this setting of the architecture."""
        return self.key(name) in self.metadata

    def integer(self, name: str, default: int | None = None, *, least: int = 1, most: int = 1 << 31) -> int:
        """A setting that is a whole number in a range."""
        value = self.metadata.get(self.key(name), default)
        if type(value) is not int or not least <= value <= most:
            wanted = f"≥ {least}" if type(value) is not int or value < least else f"from {least} to {most:,}"
            raise ModelError(
                f"{self.path}: the metadata key {self.key(name)} is {value!r}; a whole number {wanted} is needed."
            )
        return value

    def real(self, name: str, default: float | None = None) -> float:
        """A setting that is a positive number."""
        value = self.metadata.get(self.key(name), default)
        if not is_finite(value) or value <= 0:
            raise ModelError(
                f"{self.path}: the metadata key {self.key(name)} is {value!r}; a positive number is needed."
            )
        return shortest(value)

    def token(self, role: str) -> int | None:
        """The number of the token with this role, or None if the file names none."""
        key = f"tokenizer.ggml.{role}_token_id"
        value = self.metadata.get(key)
        if value is not None and (type(value) is not int or value < 0):
            raise ModelError(f"{self.path}: the metadata key {key} is {value!r}; a token's number is needed.")
        return value


def shortest(value: float) -> float:
    """The shortest decimal that rounds to a float32 number: the configuration held that decimal."""
    return float(str(np.float32(value)))


class Presence(Enum):
    """What it means if a setting is missing or null."""

    NEEDED = "needed"
    OPTIONAL = "optional"


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting under both of its names."""

    theirs: str
    """The key in config.json."""
    ours: str
    """The key in the metadata, after the name of the architecture."""
    kind: type
    """The type of the value, int or float."""
    presence: Presence = Presence.NEEDED
    assumed: int | float | None = None
    """The value that llama.cpp assumes if a file lacks the key."""

    def read(self, metadata: Metadata) -> dict[str, Any]:
        """The setting for config.json; it is null if it is optional and missing."""
        if self.presence is Presence.OPTIONAL and not metadata.has(self.ours):
            return {self.theirs: None}
        if self.kind is int:
            return {self.theirs: metadata.integer(self.ours, None if self.assumed is None else int(self.assumed))}
        return {self.theirs: metadata.real(self.ours, self.assumed)}

    def write(self, config: Mapping[str, Any]) -> dict[str, Value]:
        """The setting for the metadata, or nothing if it is null and may be.

        Raises:
            ModelError: the setting is missing, or is not a number above 0.
        """
        value = config.get(self.theirs)
        if value is None and self.presence is Presence.OPTIONAL:
            return {}
        if not is_finite(value) or value <= 0 or not (self.kind is float or is_whole(value)):
            raise ModelError(f"{self.theirs} is {value!r}; GGUF needs a number above 0 there")
        return {self.ours: self.kind(value)}
