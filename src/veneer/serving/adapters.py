"""Adapters by name from a folder of adapters, kept in memory by bytes and last use.

A version of an adapter is what its files held when it was first loaded. It is loaded off the engine's thread, and may
be dropped from memory when nobody uses it and others need the room. It then comes from the files again, which must
still hold the same bytes: nobody gets another adapter because a file was exchanged.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from veneer.adapters.store import CONFIG_FILE
from veneer.errors import AdapterError, ConfigError, VeneerError, nearest
from veneer.generation.runner import LoadedAdapter
from veneer.serving.adapter_loading import Loader, content_digest
from veneer.serving.models import AdapterVersion, GenerationConflict

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


class AdapterFolder:
    """The adapters in the folders below one folder (`veneer.serving.models.AdapterCatalogue`).

    Args:
        folder: has a folder for each adapter, whose name is the adapter's.
        loader: loads one.
        budget: bytes that adapters may take in memory. Those in use are never dropped.

    Raises:
        ConfigError: there is no such folder, it holds no adapter, or a name cannot be one of a model.
    """

    def __init__(self, folder: Path, loader: Loader, budget: int):
        self._folder, self._loader, self._budget = folder, loader, budget
        self._lock = threading.Lock()
        self._current = {name: _Version(folder / name, 1) for name in _names(folder)}
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="veneer-adapters")
        self._used: dict[_Version, None] = {}
        """Versions in memory, the one that was used last at the end."""

    def lease(self, name: str, on_ready: Callable[[], None]) -> Lease:
        """See `AdapterSource.lease`."""
        with self._lock:
            version = self._found(name)
            version.users += 1
            if version.adapter is None:
                version.waiting.append(on_ready)
                if len(version.waiting) == 1:
                    version.error = None
                    self._pool.submit(self._fetch, version)
            else:
                self._touch(version)
        return Lease(self, version)

    def release(self, version: _Version) -> None:
        """Take a lease of a version back; see `Lease`."""
        with self._lock:
            version.users -= 1
            self._make_room()

    def versions(self) -> list[AdapterVersion]:
        """See `AdapterCatalogue.versions`."""
        with self._lock:
            return [AdapterVersion(name, self._current[name].generation) for name in sorted(self._current)]

    def load(self, name: str, expected_generation: int | None) -> AdapterVersion:
        """See `AdapterCatalogue.load`."""
        if not _NAME.fullmatch(name) or not (self._folder / name / CONFIG_FILE).is_file():
            raise AdapterError(f"{name[:128]!r}: the server's folder of adapters has none of that name")
        with self._lock:
            self._compare(name, expected_generation)
        version = _Version(self._folder / name, 0)
        version.digest, version.adapter = self._read(version)
        with self._lock:
            # Another caller may have been faster.
            self._compare(name, expected_generation)
            version.generation = self._generation(name) + 1
            self._current[name] = version
            self._touch(version)
            self._make_room()
        return AdapterVersion(name, version.generation)

    def unload(self, name: str) -> None:
        """See `AdapterCatalogue.unload`."""
        with self._lock:
            version = self._found(name)
            del self._current[name]
            if not version.users:
                self._drop(version)

    @property
    def nbytes(self) -> int:
        """Bytes that adapters take in memory."""
        with self._lock:
            return self._bytes()

    def close(self) -> None:
        """Load nothing more."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _found(self, name: str) -> _Version:
        version = self._current.get(name)
        if version is None:
            raise AdapterError(f"{name!r}: there is no adapter of that name{nearest(name, sorted(self._current))}")
        return version

    def _generation(self, name: str) -> int:
        version = self._current.get(name)
        return 0 if version is None else version.generation

    def _compare(self, name: str, expected: int | None) -> None:
        now = self._generation(name)
        if expected not in (None, now):
            raise GenerationConflict(f"{name}: generation {now} is loaded, and {expected} was expected")

    def _fetch(self, version: _Version) -> None:
        """Load a version that is waited for; on the pool's thread."""
        error, found = None, None
        try:
            found = self._read(version)
        except VeneerError as problem:
            error = problem
        with self._lock:
            waiting, version.waiting, version.error = version.waiting, [], error
            if found is not None:
                version.digest, version.adapter = found
                self._touch(version)
                self._make_room()
        for tell in waiting:
            tell()

    def _read(self, version: _Version) -> tuple[bytes, LoadedAdapter]:
        """Digest and content of a version's files. Raises AdapterError."""
        name = version.folder.name
        try:
            before = content_digest(version.folder)
            if version.digest not in (None, before):
                raise AdapterError(f"{name}: its files have changed since it was loaded; load it anew")
            adapter = self._loader(version.folder)
            if content_digest(version.folder) != before:
                raise AdapterError(f"{name}: its files changed while they were read; load it anew")
        except (OSError, MemoryError) as error:
            raise AdapterError(f"{name}: cannot be read: {error}") from error
        return before, adapter

    def _touch(self, version: _Version) -> None:
        self._used.pop(version, None)
        self._used[version] = None

    def _make_room(self) -> None:
        current = set(self._current.values())
        for version in list(self._used):
            stale = version not in current
            if not version.users and (stale or self._bytes() > self._budget):
                self._drop(version)

    def _drop(self, version: _Version) -> None:
        self._used.pop(version, None)
        version.adapter = None

    def _bytes(self) -> int:
        return sum(version.adapter.nbytes for version in self._used if version.adapter is not None)


class _Version:
    """An adapter as its files were when it was first loaded."""

    def __init__(self, folder: Path, generation: int):
        self.folder, self.generation = folder, generation
        self.digest: bytes | None = None
        self.adapter: LoadedAdapter | None = None
        self.error: VeneerError | None = None
        self.users = 0
        self.waiting: list[Callable[[], None]] = []


class Lease:
    """The right to use a version (`veneer.generation.runner.AdapterLease`)."""

    def __init__(self, source: AdapterFolder, version: _Version):
        self._source, self._version = source, version
        self._released = False

    @property
    def adapter(self) -> LoadedAdapter | None:
        """See `AdapterLease.adapter`."""
        return self._version.adapter

    @property
    def error(self) -> VeneerError | None:
        """See `AdapterLease.error`."""
        return self._version.error

    def release(self) -> None:
        """See `AdapterLease.release`; nothing happens the second time."""
        if not self._released:
            self._released = True
            self._source.release(self._version)


def _names(folder: Path) -> list[str]:
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such folder; --adapters takes a folder with a folder for each adapter")
    if (folder / CONFIG_FILE).is_file():
        raise ConfigError(f"{folder} is an adapter itself; --adapters takes the folder above, with a folder for each")
    names = sorted(entry.name for entry in folder.iterdir() if (entry / CONFIG_FILE).is_file())
    strange = [name for name in names if not _NAME.fullmatch(name)]
    if strange:
        raise ConfigError(f"{folder}: names of adapters have letters, digits, dots, dashes, underscores: {strange[:8]}")
    if not names:
        raise ConfigError(f"{folder}: no folder in it has an {CONFIG_FILE}")
    return names
