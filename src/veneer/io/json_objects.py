"""The JSON objects beside a model's weights: its configuration, and what its tokenizer's says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from veneer.errors import ModelError


def object_in(file: Path) -> dict[str, Any]:
    """The JSON object in a file, which may begin with a byte order mark.

    Raises:
        ModelError: it cannot be read, or is damaged.
    """
    try:
        value = json.loads(file.read_bytes())  # bytes: of a text, Python refuses the mark that editors on Windows write
        # Half a character (a lone surrogate), which an escape can spell, is none that a tokenizer can take.
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except OSError as error:
        raise ModelError(f"{file} cannot be read: {error.strerror or error}.") from error
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{file} is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise ModelError(f"{file} holds a {type(value).__name__}, a JSON object is needed.")
    return value


def object_if_there(file: Path) -> dict[str, Any]:
    """As `object_in`, and an empty object where there is no such file."""
    return object_in(file) if file.is_file() else {}
