"""Adapters by name from a folder of adapters, kept in memory within a budget of bytes and evicted by last use.

A version of an adapter is the content of its files when it was first loaded. It is loaded on a thread of its own, not
on the engine's. It may be dropped from memory when nobody uses it and others need the room. It is then read from the
files again, which must still hold the same bytes, so no request gets another adapter because a file was replaced.

Adapters are read one after another, in the order in which they were requested. If the first one does not fit next to
those in use, it waits until some of them are released. Once it has waited for some seconds, new requests for adapters
in memory wait for it too: otherwise a steady stream of them could keep the others in use forever. A request that holds
a lease never waits, so every lease is released at some time.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from pathlib import Path

from veneer.adapters.files.content import content_digest
from veneer.adapters.files.store import CONFIG_FILE, WEIGHTS_FILE
from veneer.errors import AdapterError, ConfigError, VeneerError, listing, nearest, reading, where_raised
from veneer.generation.runner import LoadedAdapter
from veneer.machine.out_of_memory import KINDS, is_out_of_memory, message_of
from veneer.serving.served_adapters.catalogue import AdapterVersion, GenerationConflict, UnknownAdapter
from veneer.serving.served_adapters.loading import Loader
from veneer.serving.served_adapters.memory import AdapterMemory, Lease, Version

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._=,+-]{0,127}")
"""The names of a sweep's folders match it too."""
MEMORY_REMEDY = (
    "Ask again when less else runs; `veneer serve` needs less with a smaller --adapter-memory and --cache-memory."
)
"""The remedy if there was no memory for an adapter."""
PATIENCE_SECONDS = 5.0
"""Seconds that an adapter waits for room before new leases of those in memory have to wait for it."""
log = logging.getLogger("veneer.serving")


class AdapterFolder:
    """The adapters in the subfolders of one folder (`veneer.serving.served_adapters.catalogue.AdapterCatalogue`).

    Args:
        folder: the folder, in which each adapter has a folder of its name.
        loader: loads an adapter.
        budget: bytes that adapters may take in memory, without the one that is being read.
        pinned: names of adapters that stay in memory once they are loaded; see `load_pinned`.
        patience: seconds that an adapter waits for room before new leases of those in memory have to wait for it;
            leases of pinned ones never wait.

    Raises:
        ConfigError: the folder does not exist or is an adapter itself, a name cannot be the name of a model, or a
            pinned adapter does not exist.
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
        """The last generation of each name. It is kept when an adapter is unloaded, because no later files may get a
        generation that a client remembers from earlier ones."""
        self._current = {name: self._new_version(name) for name in _names(folder)}
        check_pinned(folder, list(self._current), pinned)
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="veneer-adapters")
        self._queue: deque[Version] = deque()
        """Versions that requests wait for, in the order of the requests. A version that is in memory is not read again
        at its turn, unless it was evicted meanwhile."""
        self._crowded_since: float | None = None
        """Since when there has been no room for the first version of the queue."""
        self._reading = self._closed = False

    def load_pinned(self, on_loaded: Callable[[], None] = lambda: None) -> None:
        """Read the pinned adapters, and call `on_loaded` after each. No adapter may be in use yet.

        Raises:
            AdapterError: one of them cannot be used, or they do not all fit.
        """
        for name in sorted(self._pinned):
            version = self._current[name]
            version.digest, adapter = self._read_elsewhere(version)
            self._memory.put(version, adapter)
            on_loaded()

    def lease(self, name: str, on_ready: Callable[[], None]) -> Lease:
        """See `AdapterSource.lease`."""
        with self._lock:
            version = self._current_version(name)
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

    def version(self, name: str) -> AdapterVersion | None:
        """See `AdapterCatalogue.version`."""
        with self._lock:
            version = self._current.get(name)
            return None if version is None else AdapterVersion(name, version.generation)

    def take_up(self, name: str) -> None:
        """Make a name mean what its folder holds now: a new adapter, or files that differ from those that were loaded.
        They are loaded when they are requested; running requests keep their version.

        Raises:
            AdapterError: there is no adapter of that name, or its files cannot be read.
        """
        self._check_there(name)
        with reading(AdapterError, name):
            digest = content_digest(self._folder / name)
        with self._lock:
            version = self._current.get(name)
            if version is None or version.digest not in (None, digest):
                self._replace(name, self._new_version(name))

    def load(self, name: str, expected_generation: int | None) -> AdapterVersion:
        """See `AdapterCatalogue.load`."""
        self._check_there(name)
        with self._lock:
            self._check_generation(name, expected_generation)
        version = self._unnumbered(name)
        version.digest, adapter = self._read_elsewhere(version)
        with self._lock:
            # Another caller may have been faster.
            self._check_generation(name, expected_generation)
            version.nbytes = adapter.nbytes
            self._memory.check(version)
            version.generation = self._next_generation(name)
            self._replace(name, version)
            # If there is no room now, it is read from the files when it is requested.
            self._memory.put(version, adapter)
            self._read_next()
        return AdapterVersion(name, version.generation)

    def unload(self, name: str) -> None:
        """See `AdapterCatalogue.unload`."""
        with self._lock:
            self._current_version(name)
            self._replace(name, None)
            self._read_next()

    @property
    def evictions(self) -> int:
        """How often an adapter had to leave memory for another."""
        with self._lock:
            return self._memory.evictions

    def close(self) -> None:
        """Load no more adapters."""
        with self._lock:
            self._closed = True
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _check_there(self, name: str) -> None:
        if not _NAME.fullmatch(name) or not (self._folder / name / CONFIG_FILE).is_file():
            raise UnknownAdapter(f"{name[:128]!r}: the server's folder of adapters has no adapter of that name")

    def _new_version(self, name: str) -> Version:
        version = self._unnumbered(name)
        version.generation = self._next_generation(name)
        return version

    def _unnumbered(self, name: str) -> Version:
        """A version without a generation, which the caller sets."""
        weights = self._folder / name / WEIGHTS_FILE
        nbytes = weights.stat().st_size if weights.is_file() else 0
        return Version(self._folder / name, 0, pinned=name in self._pinned, nbytes=nbytes)

    def _next_generation(self, name: str) -> int:
        self._generations[name] += 1
        return self._generations[name]

    def _current_version(self, name: str) -> Version:
        """The version that a name means. Raises UnknownAdapter if there is none. The caller holds the lock."""
        version = self._current.get(name)
        if version is None:
            raise UnknownAdapter(f"{name!r}: there is no adapter of that name{nearest(name, sorted(self._current))}")
        return version

    def _replace(self, name: str, version: Version | None) -> None:
        """Make a name mean another version, or none. The caller holds the lock."""
        before = self._current.pop(name, None)
        if version is not None:
            self._current[name] = version
        if before is not None:
            before.current = False
            self._leave(before)

    def _leave(self, version: Version) -> None:
        """Drop a version from memory and from the queue if no lease of it is left that needs it there."""
        if not version.wanted and not version.current:
            self._memory.drop(version)
        if not version.waiting and version in self._queue and not (self._reading and version is self._queue[0]):
            self._dequeue(version)

    def _dequeue(self, version: Version) -> None:
        if version is self._queue[0]:
            self._crowded_since = None
        self._queue.remove(version)

    def _check_generation(self, name: str, expected: int | None) -> None:
        """Raise GenerationConflict if another generation is loaded than a client expects."""
        version = self._current.get(name)
        now = 0 if version is None else version.generation
        if expected not in (None, now):
            raise GenerationConflict(f"{name}: generation {now} is loaded, but {expected} was expected")

    def _read_next(self) -> None:
        """Start reading the first version of the queue, if there is room for it. The caller holds the lock."""
        if not self._queue or self._reading or self._closed:
            return
        version = self._queue[0]
        if version.adapter is not None or self._memory.make_room(self._expected(version)):
            self._reading = True
            self._pool.submit(self._fetch, version).add_done_callback(_log_failure)
        elif self._crowded_since is None:
            self._crowded_since = time.monotonic()

    def _crowded(self) -> bool:
        """Whether the first version of the queue has waited too long for room. The caller holds the lock."""
        since = self._crowded_since
        return since is not None and not self._reading and time.monotonic() - since >= self._patience

    def _expected(self, version: Version) -> int:
        """The bytes that a version is assumed to need. One that never fits is read nevertheless, and then refused."""
        return min(version.nbytes, self._memory.most(version))

    def _fetch(self, version: Version) -> None:
        """Load the first version of the queue. Runs on the pool's thread."""
        # The error that waiting requests get if the reader fails in an unforeseen way.
        error: VeneerError | None = AdapterError(f"{version.folder.name}: reading it has failed; the log says where")
        read = None
        try:
            # A version that is in memory only waited for its turn.
            read, error = None if version.adapter is not None else self._read(version), None
        except VeneerError as problem:
            error = problem
        finally:
            # Whatever was raised, waiting requests must be notified, and the next version be read.
            self._conclude(version, read, error)

    def _conclude(self, version: Version, read: tuple[bytes, LoadedAdapter] | None, error: VeneerError | None) -> None:
        """Take the first version out of the queue, unless it must be read again, and notify its waiting leases."""
        with self._lock:
            self._reading = False
            notified: list[Lease] = []
            try:
                done = error is not None or self._keep(version, read)
            except AdapterError as problem:
                error, done = problem, True
            if done:
                self._dequeue(version)
                notified, version.waiting = version.waiting, []
                for lease in notified:
                    lease.error = error
                    if error is None:
                        lease.grant()
            self._read_next()
        for lease in notified:
            lease.notify()

    def _keep(self, version: Version, read: tuple[bytes, LoadedAdapter] | None) -> bool:
        """Keep what was read; None means that the version was in memory. Returns False if it must be read (again) once
        there is room.

        Raises:
            AdapterError: it can never fit.
        """
        if read is None:
            if version.adapter is not None:
                self._memory.touch(version)
            return version.adapter is not None or not version.wanted
        version.digest, adapter = read
        wanted = version.wanted
        return (not wanted and not version.current) or self._memory.put(version, adapter) or not wanted

    def _read_elsewhere(self, version: Version) -> tuple[bytes, LoadedAdapter]:
        """The digest and content of a version's files, read on the pool's thread. Raises AdapterError.

        The system's allocator keeps memory that a thread has freed for that thread. If many threads read adapters, each
        would keep the memory of some copies.
        """
        with self._lock:
            if self._closed:
                raise AdapterError(f"{version.folder.name}: the server is shutting down and loads no more")
            reading = self._pool.submit(self._read, version)
        try:
            return reading.result()
        except CancelledError as error:
            raise AdapterError(f"{version.folder.name}: the server is shutting down and loads no more") from error

    def _read(self, version: Version) -> tuple[bytes, LoadedAdapter]:
        """The digest and content of a version's files. Raises AdapterError."""
        name = version.folder.name
        try:
            before = content_digest(version.folder)
            if version.digest not in (None, before):
                raise AdapterError(f"{name}: its files have changed since it was loaded; load it again")
            try:
                adapter = self._loader(version.folder)
            except VeneerError as problem:
                # A file that is still being written looks damaged, and will be complete in a moment.
                self._check_still(version, before, problem)
                # Clients get this message, and know the adapter only by its name.
                raise AdapterError(str(problem).replace(str(version.folder), name)) from problem
            self._check_still(version, before)
        except KINDS as error:
            if is_out_of_memory(error):
                # The error's own traceback holds the tensors of every frame.
                raise AdapterError(f"{message_of(f'reading the adapter {name}', str(error))} {MEMORY_REMEDY}") from None
            if isinstance(error, OSError):
                raise AdapterError(f"{name}: cannot be read: {error.strerror or error}") from error
            raise
        return before, adapter

    @staticmethod
    def _check_still(version: Version, before: bytes, cause: VeneerError | None = None) -> None:
        """Raise AdapterError, caused by `cause`, if the files of a version are not what they were before."""
        if content_digest(version.folder) != before:
            name = version.folder.name
            raise AdapterError(f"{name}: its files changed while they were read; load it again") from cause


def _log_failure(reading: Future[None]) -> None:
    """Log where an error of the program ended a reading; nothing else reports it."""
    problem = None if reading.cancelled() else reading.exception()
    if problem is not None:
        log.error("%s", where_raised(problem))


def check_pinned(folder: Path, names: Sequence[str], pinned: Collection[str]) -> None:
    """Raise ConfigError for pinned adapters that are not among the adapters of a folder; all are named."""
    unknown = [f"{name!r}{nearest(name, names)}" for name in sorted(set(pinned) - set(names))]
    if unknown:
        raise ConfigError(f"{folder}: none of these adapters is there to be pinned:\n{listing(unknown)}")


def adapter_names(folder: Path) -> list[str]:
    """The names of the adapters in the subfolders of one folder, in order.

    Raises:
        ConfigError: the folder does not exist or holds no adapter, or a name cannot be the name of a model.
    """
    names = _names(folder)
    if not names:
        raise ConfigError(f"{folder}: no folder in it has an {CONFIG_FILE}")
    return names


def _names(folder: Path) -> list[str]:
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such folder; --adapters needs a folder that holds a folder for each adapter")
    if (folder / CONFIG_FILE).is_file():
        raise ConfigError(f"{folder} is an adapter itself; give --adapters the folder above it")
    names = sorted(entry.name for entry in folder.iterdir() if (entry / CONFIG_FILE).is_file())
    strange = [name for name in names if not _NAME.fullmatch(name)]
    if strange:
        raise ConfigError(
            f"{folder}: the name of an adapter begins with a letter (A to Z, a to z) or a digit, and contains only "
            f"these and . _ - = , +; it has at most 128 characters; rename or move these folders: {strange[:8]}"
        )
    return names
