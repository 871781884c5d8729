"""A folder of adapters for a self-check: links to the user's, each of which can be replaced by another version.

The other version of an adapter has halved tensors, whatever its kind, so a reload under its name changes the answers.
The user's own files are only read.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file

from veneer.adapters.files.content import content_digest
from veneer.adapters.files.origin import BASE_FILE
from veneer.adapters.files.store import CONFIG_FILE, WEIGHTS_FILE
from veneer.errors import AdapterError
from veneer.io.files import write_tensors


@dataclass(slots=True)
class _History:
    """The digests of the versions of an adapter, in the order in which they were put under its name."""

    begun: list[str] = field(default_factory=list)
    """The versions whose files are or were under the name."""
    loaded: int = 0
    """How many of them the server has certainly loaded. It serves the last of these, or a later one."""


class AdapterVersions:
    """Adapters whose files are replaced under their names.

    Args:
        source: the user's folder of adapters.
        names: the names of the adapters that are checked.
        scratch: an empty folder.

    Raises:
        AdapterError: the files of an adapter are missing.
    """

    def __init__(self, source: Path, names: Sequence[str], scratch: Path):
        self.folder = scratch / "adapters"
        self._halved = scratch / "halved"
        self.folder.mkdir()
        self._source = source
        self._lock = threading.Lock()
        self._histories: dict[str, _History] = {}
        self.folders: dict[str, Path] = {}
        """The folder of each version's files, by the version's digest."""
        for name in names:
            own = (source / name).resolve()
            (self.folder / name).symlink_to(own)
            digest = content_digest(own).hex()
            self.folders[digest] = own
            self._histories[name] = _History([digest], 1)

    def exchange(self, name: str) -> None:
        """Put the other version of an adapter under its name. The caller then lets the server load it, and calls
        `loaded`.

        Raises:
            AdapterError: the adapter's tensors cannot be read.
            OutputError: the other version cannot be written.
        """
        own, other = (self._source / name).resolve(), self._halved / name
        if not other.exists():
            _write_halved(own, other)
        target = own if (self.folder / name).resolve() == other.resolve() else other
        digest = content_digest(target).hex()
        with self._lock:
            self.folders[digest] = target
            self._histories[name].begun.append(digest)
        link = self.folder / f".{name}"
        link.symlink_to(target)
        link.replace(self.folder / name)

    def loaded(self, name: str) -> None:
        """Record that the server has loaded the version that is under a name."""
        with self._lock:
            history = self._histories[name]
            history.loaded = len(history.begun)

    def now(self, name: str) -> int:
        """A mark of this moment, for `possible`."""
        with self._lock:
            return self._histories[name].loaded

    def possible(self, name: str, mark: int) -> list[str]:
        """The digests of the versions that may answer a question that was asked at a mark and is answered now."""
        with self._lock:
            return self._histories[name].begun[mark - 1 :]


def _write_halved(own: Path, other: Path) -> None:
    """Write a copy of an adapter with halved tensors into another folder."""
    other.mkdir(parents=True)
    for name in (CONFIG_FILE, BASE_FILE):
        if (own / name).is_file():
            shutil.copyfile(own / name, other / name)
    try:
        tensors = load_file(own / WEIGHTS_FILE)
    except (OSError, SafetensorError) as error:
        raise AdapterError(f"{own}: {WEIGHTS_FILE} cannot be read: {error}") from error
    halved = {name: tensor / 2 if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    write_tensors(other / WEIGHTS_FILE, halved, {})
