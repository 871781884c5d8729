"""Adapters by name from a folder of adapters, kept in memory by bytes and last use.

A version of an adapter is what its files held when it was first loaded. It is loaded off the engine's thread, and may
be dropped from memory when nobody uses it and others need the room. It then comes from the files again, which must
still hold the same bytes: nobody gets another adapter because a file was exchanged.

Adapters are read one after another, in the order in which they were asked for. The first one waits where there is no
room for it beside those in use, until some of them are given back. Once it has waited some seconds, whoever asks for
one in memory waits behind it: others that never rest would keep theirs in use for good. Whoever has a lease goes on,
and waits for nobody, so that all of them come to an end.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Collection
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from pathlib import Path

from veneer.adapters.files.content import content_digest
from veneer.adapters.files.store import CONFIG_FILE, WEIGHTS_FILE
from veneer.errors import AdapterError, ConfigError, VeneerError, listing, nearest, reading, where_raised
from veneer.generation.runner import LoadedAdapter
from veneer.machine.out_of_memory import KINDS, is_out_of_memory, message_of
from veneer.serving.served_adapters.catalogue import AdapterVersion, GenerationConflict
from veneer.serving.served_adapters.loading import Loader
from veneer.serving.served_adapters.memory import AdapterMemory, Lease, Version

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._=,+-]{0,127}")
"""What a folder of a sweep is called too."""
MEMORY = "Ask again when less else runs; `veneer serve` takes less with a smaller --adapter-memory and --cache-memory."
"""The remedy where there was no memory for an adapter."""
PATIENCE_SECONDS = 5.0
"""Seconds that an adapter waits for room until those in memory may be asked for behind it alone."""
log = logging.getLogger("veneer.serving")


class AdapterFolder:
    """The adapters in the folders below one folder (`veneer.serving.served_adapters.catalogue.AdapterCatalogue`).

    Args:
        folder: has a folder for each adapter, whose name is the adapter's.
        loader: loads one.
        budget: bytes that adapters may take in memory, beside the one that is being read.
        pinned: names of adapters that stay in memory once they are there; see `load_pinned`.
        patience: seconds that an adapter waits for room until new leases of those in memory, which are not pinned, wait
            behind it.

    Raises:
        ConfigError: there is no such folder, it is an adapter itself, a name cannot be one of a model, or a pinned one
            is not there.
    """

    def __init__(
        self,
        folder: Path,
        loader: Loader,
        budget: int,
        pinned: Collection[str] = (),
        *,
        patience: float = PATIENCE_SECONDS,
    ):
        self._folder, self._loader, self._pinned = folder, loader, frozenset(pinned)
        self._patience = patience
        self._lock = threading.Lock()
        self._memory = AdapterMemory(budget)
        self._generations: Counter[str] = Counter()
        """The last generation of each name. It stays when an adapter is unloaded: who expects an old generation must
        not find that number on other files."""
        self._current = {name: self._version(name) for name in _names(folder)}
        unknown = [
            f"{name!r}{nearest(name, sorted(self._current))}" for name in sorted(self._pinned - set(self._current))
        ]
        if unknown:
            raise ConfigError(f"{folder}: none of these adapters is there to be pinned:\n{listing(unknown)}")
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="veneer-adapters")
        self._queue: deque[Version] = deque()
        """Versions that are waited for, in the order in which they were asked for. One that is in memory need not be
        read at its turn, unless it had to go before."""
        self._crowded_since: float | None = None
        """When the first version of the queue was found to have no room."""
        self._reading = self._closed = False

    def load_pinned(self, on_loaded: Callable[[], None] = lambda: None) -> None:
        """Read the pinned adapters, and tell of each. Nobody may use the others yet.

        Raises:
            AdapterError: one of them cannot be used, or there is no room for all of them.
        """
        for name in sorted(self._pinned):
            version = self._current[name]
            version.digest, adapter = self._read_elsewhere(version)
            self._memory.put(version, adapter)
            on_loaded()

    def lease(self, name: str, on_ready: Callable[[], None]) -> Lease:
        """See `AdapterSource.lease`."""
        with self._lock:
            version = self._found(name)
            lease = Lease(version, on_ready, self._release)
            if version.adapter is not None and (version.stays or not (version in self._queue or self._crowded())):
                lease.grant()
                self._memory.touch(version)
            else:
                version.waiting.append(lease)
                if version not in self._queue:
                    self._queue.append(version)
                    self._read_next()
        return lease

    def _release(self, lease: Lease) -> None:
        """Take a lease back."""
        version = lease.version
        with self._lock:
            if lease.granted:
                version.users -= 1
            elif lease in version.waiting:
                version.waiting.remove(lease)
            self._leave(version)
            self._read_next()

    def versions(self) -> list[AdapterVersion]:
        """See `AdapterCatalogue.versions`."""
        with self._lock:
            return [AdapterVersion(name, self._current[name].generation) for name in sorted(self._current)]

    def take_up(self, name: str) -> None:
        """Let a name stand for what its folder holds now: an adapter that has come since, or other files than those
        that were loaded. They are loaded when they are asked for; requests under way keep the version that they have.

        Raises:
            AdapterError: there is none of that name, or its files cannot be read.
        """
        self._check_there(name)
        with reading(AdapterError, name):
            now = content_digest(self._folder / name)
        with self._lock:
            version = self._current.get(name)
            if version is None or version.digest not in (None, now):
                self._replace(name, self._version(name))

    def load(self, name: str, expected_generation: int | None) -> AdapterVersion:
        """See `AdapterCatalogue.load`."""
        self._check_there(name)
        with self._lock:
            self._compare(name, expected_generation)
        version = self._loose(name)
        version.digest, adapter = self._read_elsewhere(version)
        with self._lock:
            # Another caller may have been faster.
            self._compare(name, expected_generation)
            version.nbytes = adapter.nbytes
            self._memory.check(version)
            version.generation = self._next_generation(name)
            self._replace(name, version)
            # Where there is no room now, it comes from the files when it is asked for.
            self._memory.put(version, adapter)
            self._read_next()
        return AdapterVersion(name, version.generation)

    def unload(self, name: str) -> None:
        """See `AdapterCatalogue.unload`."""
        with self._lock:
            self._found(name)
            self._replace(name, None)
            self._read_next()

    @property
    def evictions(self) -> int:
        """How often an adapter had to leave memory for another."""
        with self._lock:
            return self._memory.evictions

    def close(self) -> None:
        """Load nothing more."""
        with self._lock:
            self._closed = True
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _check_there(self, name: str) -> None:
        if not _NAME.fullmatch(name) or not (self._folder / name / CONFIG_FILE).is_file():
            raise AdapterError(f"{name[:128]!r}: the server's folder of adapters has none of that name")

    def _version(self, name: str) -> Version:
        version = self._loose(name)
        version.generation = self._next_generation(name)
        return version

    def _loose(self, name: str) -> Version:
        """A version that has no generation yet."""
        weights = self._folder / name / WEIGHTS_FILE
        nbytes = weights.stat().st_size if weights.is_file() else 0
        return Version(self._folder / name, 0, pinned=name in self._pinned, nbytes=nbytes)

    def _next_generation(self, name: str) -> int:
        self._generations[name] += 1
        return self._generations[name]

    def _found(self, name: str) -> Version:
        version = self._current.get(name)
        if version is None:
            raise AdapterError(f"{name!r}: there is no adapter of that name{nearest(name, sorted(self._current))}")
        return version

    def _replace(self, name: str, version: Version | None) -> None:
        before = self._current.pop(name, None)
        if version is not None:
            self._current[name] = version
        if before is not None:
            before.current = False
            self._leave(before)

    def _leave(self, version: Version) -> None:
        """Forget what was done for those who had leases of a version, where none is left."""
        if not version.wanted and not version.current:
            self._memory.drop(version)
        if not version.waiting and version in self._queue and not (self._reading and version is self._queue[0]):
            self._dequeue(version)

    def _dequeue(self, version: Version) -> None:
        if version is self._queue[0]:
            self._crowded_since = None
        self._queue.remove(version)

    def _generation(self, name: str) -> int:
        version = self._current.get(name)
        return 0 if version is None else version.generation

    def _compare(self, name: str, expected: int | None) -> None:
        now = self._generation(name)
        if expected not in (None, now):
            raise GenerationConflict(f"{name}: generation {now} is loaded, and {expected} was expected")

    def _read_next(self) -> None:
        """Have the first version of the queue read, if there is room for it; the lock is held."""
        if not self._queue or self._reading or self._closed:
            return
        version = self._queue[0]
        if version.adapter is not None or self._memory.make_room(self._expected(version)):
            self._reading = True
            self._pool.submit(self._fetch, version).add_done_callback(_log_failure)
        elif self._crowded_since is None:
            self._crowded_since = time.monotonic()

    def _crowded(self) -> bool:
        """Whether the first version of the queue has waited for room as long as is to be borne; the lock is held."""
        since = self._crowded_since
        return since is not None and not self._reading and time.monotonic() - since >= self._patience

    def _expected(self, version: Version) -> int:
        """Bytes that a version is taken to need; one that never fits is read, and then refused."""
        return min(version.nbytes, self._memory.most(version))

    def _fetch(self, version: Version) -> None:
        """Load the first version of the queue; on the pool's thread."""
        # What is told where something is raised that no reader of files should raise.
        error: VeneerError | None = AdapterError(f"{version.folder.name}: reading it has failed; the log says where")
        found = None
        try:
            # One in memory has waited for its turn alone.
            found, error = None if version.adapter is not None else self._read(version), None
        except VeneerError as problem:
            error = problem
        finally:
            # Whatever was raised: who waits must be told, and the next one be read.
            self._conclude(version, found, error)

    def _conclude(self, version: Version, found: tuple[bytes, LoadedAdapter] | None, error: VeneerError | None) -> None:
        """Take the first version of the queue out of it, where it need not be read again, and tell those who wait."""
        with self._lock:
            self._reading = False
            told: list[Lease] = []
            try:
                done = error is not None or self._keep(version, found)
            except AdapterError as problem:
                error, done = problem, True
            if done:
                self._dequeue(version)
                told, version.waiting = version.waiting, []
                for lease in told:
                    lease.error = error
                    if error is None:
                        lease.grant()
            self._read_next()
        for lease in told:
            lease.tell()

    def _keep(self, version: Version, found: tuple[bytes, LoadedAdapter] | None) -> bool:
        """Keep what was read; None where the version was in memory. Returns False where it must be read (again), when
        there is room.

        Raises:
            AdapterError: there never will be.
        """
        if found is None:
            if version.adapter is not None:
                self._memory.touch(version)
            return version.adapter is not None or not version.wanted
        version.digest, adapter = found
        wanted = version.wanted
        return (not wanted and not version.current) or self._memory.put(version, adapter) or not wanted

    def _read_elsewhere(self, version: Version) -> tuple[bytes, LoadedAdapter]:
        """Digest and content of a version's files, read on the pool's thread. Raises AdapterError.

        The system's allocator keeps what a thread has freed for that thread, some copies of an adapter for each one
        that has ever read any.
        """
        with self._lock:
            if self._closed:
                raise AdapterError(f"{version.folder.name}: the server is ending, and loads nothing more")
            reading = self._pool.submit(self._read, version)
        try:
            return reading.result()
        except CancelledError as error:
            raise AdapterError(f"{version.folder.name}: the server is ending, and loads nothing more") from error

    def _read(self, version: Version) -> tuple[bytes, LoadedAdapter]:
        """Digest and content of a version's files. Raises AdapterError."""
        name = version.folder.name
        try:
            before = content_digest(version.folder)
            if version.digest not in (None, before):
                raise AdapterError(f"{name}: its files have changed since it was loaded; load it anew")
            try:
                adapter = self._loader(version.folder)
            except VeneerError as problem:
                # Half of a file that is being written is damaged, and will not be in a moment.
                self._check_still(version, before, problem)
                # Clients are told of it, who know the adapter by its name alone.
                raise AdapterError(str(problem).replace(str(version.folder), name)) from problem
            self._check_still(version, before)
        except KINDS as error:
            if is_out_of_memory(error):
                # The error's own traceback holds the tensors of every frame.
                raise AdapterError(f"{message_of(f'reading the adapter {name}', str(error))} {MEMORY}") from None
            if isinstance(error, OSError):
                raise AdapterError(f"{name}: cannot be read: {error.strerror or error}") from error
            raise
        return before, adapter

    @staticmethod
    def _check_still(version: Version, before: bytes, cause: VeneerError | None = None) -> None:
        """Raises AdapterError, from `cause`, where the files of a version are not what they were before."""
        if content_digest(version.folder) != before:
            name = version.folder.name
            raise AdapterError(f"{name}: its files changed while they were read; load it anew") from cause


def _log_failure(reading: Future[None]) -> None:
    """Log where a reading was ended by an error of the program, which nobody else sees."""
    problem = None if reading.cancelled() else reading.exception()
    if problem is not None:
        log.error("%s", where_raised(problem))


def adapter_names(folder: Path) -> list[str]:
    """The names of the adapters in the folders below one folder, in order.

    Raises:
        ConfigError: there is no such folder, it holds no adapter, or a name cannot be one of a model.
    """
    names = _names(folder)
    if not names:
        raise ConfigError(f"{folder}: no folder in it has an {CONFIG_FILE}")
    return names


def _names(folder: Path) -> list[str]:
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such folder; --adapters takes a folder with a folder for each adapter")
    if (folder / CONFIG_FILE).is_file():
        raise ConfigError(f"{folder} is an adapter itself; --adapters takes the folder above, with a folder for each")
    names = sorted(entry.name for entry in folder.iterdir() if (entry / CONFIG_FILE).is_file())
    strange = [name for name in names if not _NAME.fullmatch(name)]
    if strange:
        raise ConfigError(
            f"{folder}: the name of an adapter begins with a letter (A to Z, a to z) or a digit, and has these and "
            f"any of . _ - = , + , 128 characters at most; rename these folders, or move them away: {strange[:8]}"
        )
    return names
