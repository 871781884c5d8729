"""The JSON objects next to a model's weights: its configuration and that of its tokenizer."""

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
        # A lone surrogate, which an escape can spell, is not a character that a tokenizer accepts.
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except OSError as error:
        raise ModelError(f"{file} cannot be read: {error.strerror or error}.") from error
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{file} is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise ModelError(f"{file} has a {type(value).__name__}, but must have a JSON object.")
    return value


def object_if_there(file: Path) -> dict[str, Any]:
    """As `object_in`, or an empty object if there is no such file."""
    return object_in(file) if file.is_file() else {}
