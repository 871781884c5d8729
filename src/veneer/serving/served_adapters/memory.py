"""Which versions of adapters are in memory, and which of them are dropped when others need the room.

A version that is in use or pinned is never dropped. An adapter for which there is no room waits until others are
released, so the budget is never exceeded.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from veneer.errors import AdapterError, VeneerError
from veneer.generation.runner import LoadedAdapter


class Version:
    """An adapter with the content that its files had when it was first loaded.

    Args:
        folder: the folder of its files.
        generation: how many versions have been loaded under this name, this one included.
        pinned: whether it stays in memory once it is there, as long as it is the current version of its name.
        nbytes: the assumed size in bytes, until it has been loaded.
    """

    def __init__(self, folder: Path, generation: int, *, pinned: bool, nbytes: int):
        self.folder, self.generation, self.pinned, self.nbytes = folder, generation, pinned, nbytes
        self.digest: bytes | None = None
        self.adapter: LoadedAdapter | None = None
        self.current = True
        """Whether its name means this version."""
        self.users = 0
        """The number of granted leases. It stays in memory as long as there is one."""
        self.waiting: list[Lease] = []
        """Leases that are not granted yet. They do not keep it in memory."""

    @property
    def wanted(self) -> bool:
        """Whether there is a lease of it, granted or not."""
        return self.users > 0 or bool(self.waiting)

    @property
    def stays(self) -> bool:
        """Whether it is in memory and is never dropped, so that releasing a lease of it makes no room for others."""
        return self.adapter is not None and self.pinned and self.current


class Lease:
    """The right to use a version (`veneer.generation.runner.AdapterLease`).

    Args:
        version: the version.
        notify: notifies the holder when the lease is granted or has failed, unless it was granted at once.
        give_back: returns the lease to its folder.
    """

    def __init__(self, version: Version, notify: Callable[[], None], give_back: Callable[[Lease], None]):
        self.version, self.notify, self._give_back = version, notify, give_back
        self.granted = self._released = False
        self.error: VeneerError | None = None
        """See `AdapterLease.error`."""

    @property
    def adapter(self) -> LoadedAdapter | None:
        """See `AdapterLease.adapter`."""
        return self.version.adapter if self.granted else None

    def grant(self) -> None:
        """Allow the use of the version, which is in memory."""
        self.granted = True
        self.version.users += 1

    def release(self) -> None:
        """See `AdapterLease.release`. A second call does nothing."""
        if not self._released:
            self._released = True
            self._give_back(self)


class AdapterMemory:
    """Versions in memory, by bytes and last use. The caller must allow only one thread at a time here.

    Args:
        budget: the bytes that they may take together.
    """

    def __init__(self, budget: int):
        self.budget, self.nbytes, self.evictions = budget, 0, 0
        self._held: dict[Version, None] = {}
        """Versions in memory, the most recently used one at the end."""

    def most(self, version: Version) -> int:
        """The bytes that a version could have if all others that may be dropped were dropped."""
        others = (one for one in self._held if one.pinned and one.current and one.folder != version.folder)
        return self.budget - sum(one.nbytes for one in others)

    def check(self, version: Version) -> None:
        """Raise AdapterError for a version that can never fit."""
        most = self.most(version)
        if version.nbytes > most:
            beside = "" if most == self.budget else f", of which pinned ones take {self.budget - most:,}"
            raise AdapterError(
                f"{version.folder.name}: needs {version.nbytes:,} bytes, but all adapters together have "
                f"{self.budget:,}{beside}; give more (--adapter-memory)"
            )

    def make_room(self, nbytes: int) -> bool:
        """Drop unused versions, least recently used first, until `nbytes` are free. Returns whether they are."""
        for version in list(self._held):
            if nbytes <= self.budget - self.nbytes:
                break
            if not version.users and not (version.pinned and version.current):
                self.drop(version)
                self.evictions += 1
        return nbytes <= self.budget - self.nbytes

    def put(self, version: Version, adapter: LoadedAdapter) -> bool:
        """Keep an adapter that was read. Returns False if there is no room for it now.

        Raises:
            AdapterError: it can never fit.
        """
        version.nbytes = adapter.nbytes
        self.check(version)
        if not self.make_room(adapter.nbytes):
            return False
        version.adapter = adapter
        self._held[version] = None
        self.nbytes += version.nbytes
        return True

    def touch(self, version: Version) -> None:
        """Record that a version in memory is used now."""
        self._held.pop(version)
        self._held[version] = None

    def drop(self, version: Version) -> None:
        """Remove a version from memory, if it is there."""
        if version in self._held:
            del self._held[version]
            self.nbytes -= version.nbytes
            version.adapter = None
