"""Models of the Hugging Face hub: what of their files is fetched, and in which words that fails."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import snapshot_download

from veneer.errors import ModelError

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
"""What names a model of the hub: `owner/name`."""
SETTINGS = ("*.json", "*.jinja", "tokenizer.model")
"""The small files of a hub repository: a model's configuration and tokenizer."""
ALL_FILES = (*SETTINGS, "*.safetensors")
"""Files that are downloaded from a hub repository: no pickles and no code."""
LEFT_OUT = ("*/*", "consolidated*.safetensors")
"""Files that fit `ALL_FILES` and are left out: those of folders, and one maker's own copy of all weights. Both are the
model once more."""
HUB_FOLDER = "models--"
"""What the folder of a model begins with in the hub's cache."""


def download(name: str, revision: str | None, patterns: Sequence[str] = ALL_FILES) -> Path:
    """The folder with the files of a hub model, out of the cache or fetched.

    Raises:
        ModelError: it cannot be had.
    """
    try:
        folder = snapshot_download(
            name, revision=revision, allow_patterns=list(patterns), ignore_patterns=list(LEFT_OUT)
        )
    # The errors of its HTTP client (which differs by its version), of that client's addresses, of its storage and its
    # own have no base in common.
    except Exception as error:
        first = next(iter(str(error).strip().splitlines()), "").rstrip(". ")
        # The words of those that are no OSError are about a protocol or a format, and mean little by themselves.
        reason = first if first and isinstance(error, OSError) else f"{type(error).__name__} {first}".strip()
        at = f" at revision {revision}" if revision else ""
        raise ModelError(
            f"The model {name}{at} is neither a local directory nor could it be fetched from the hub: {reason}. Check "
            "the name, the network (and a proxy in HTTPS_PROXY) and, for a gated model, `hf auth login`; or name a "
            "directory that holds it."
        ) from error
    return Path(folder)
