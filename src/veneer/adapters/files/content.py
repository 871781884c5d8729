"""One digest of what the files of an adapter compute."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

from veneer.adapters.files.store import CONFIG_FILE, WEIGHTS_FILE
from veneer.errors import AdapterError
from veneer.io.digests import file_digest


def content_digest(folder: Path, digest: Callable[[Path], str] = file_digest) -> bytes:
    """Digest of what an adapter computes: its configuration, which has the scale, and its tensors.

    Args:
        folder: the folder of the adapter.
        digest: a function that returns the SHA-256 of a file.

    Raises:
        AdapterError: a file is missing.
        OSError: a file cannot be read.
    """
    try:
        return sha256("".join(digest(folder / name) for name in (CONFIG_FILE, WEIGHTS_FILE)).encode()).digest()
    except FileNotFoundError as error:
        raise AdapterError(f"{folder.name}: {Path(error.filename).name} is missing") from error
