"""Which versions of adapters are in memory, and which of them go when others need the room.

What is in use, or pinned, is never dropped. So an adapter for which there is no room waits until others are given back;
the budget is kept all the same, and nobody has to be told that it was not.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from veneer.errors import AdapterError, VeneerError
from veneer.generation.runner import LoadedAdapter


class Version:
    """An adapter as its files were when it was first loaded.

    Args:
        folder: the folder of its files.
        generation: how often an adapter of this name has been loaded, from 1 on.
        pinned: whether it stays in memory once it is there, as long as it is the one of its name.
        nbytes: what it is taken to need before it has been loaded.
    """

    def __init__(self, folder: Path, generation: int, *, pinned: bool, nbytes: int):
        self.folder, self.generation, self.pinned, self.nbytes = folder, generation, pinned, nbytes
        self.digest: bytes | None = None
        self.adapter: LoadedAdapter | None = None
        self.current = True
        """Whether it is the one that its name stands for."""
        self.users = 0
        """Leases by which it is used; it stays in memory as long as there is one."""
        self.waiting: list[Lease] = []
        """Leases that are not granted yet, for which it need not stay."""

    @property
    def wanted(self) -> bool:
        """Whether anybody has a lease of it."""
        return self.users > 0 or bool(self.waiting)

    @property
    def stays(self) -> bool:
        """Whether it is in memory and never goes, so that others get no room by whoever gives it back."""
        return self.adapter is not None and self.pinned and self.current


class Lease:
    """The right to use a version (`veneer.generation.runner.AdapterLease`).

    Args:
        version: the version.
        tell: called when the lease is granted or has failed, where it was not granted at once.
        give_back: takes it back.
    """

    def __init__(self, version: Version, tell: Callable[[], None], give_back: Callable[[Lease], None]):
        self.version, self.tell, self._give_back = version, tell, give_back
        self.granted = self._released = False
        self.error: VeneerError | None = None
        """See `AdapterLease.error`."""

    @property
    def adapter(self) -> LoadedAdapter | None:
        """See `AdapterLease.adapter`."""
        return self.version.adapter if self.granted else None

    def grant(self) -> None:
        """Let the version, which is in memory, be used."""
        self.granted = True
        self.version.users += 1

    def release(self) -> None:
        """See `AdapterLease.release`; nothing happens the second time."""
        if not self._released:
            self._released = True
            self._give_back(self)


class AdapterMemory:
    """Versions in memory, by bytes and last use. The caller sees to it that one thread at a time is here.

    Args:
        budget: bytes that they may take together.
    """

    def __init__(self, budget: int):
        self.budget, self.nbytes, self.evictions = budget, 0, 0
        self._held: dict[Version, None] = {}
        """Versions in memory, the one that was used last at the end."""

    def most(self, version: Version) -> int:
        """Bytes that a version could have if all others were dropped that may be."""
        others = (one for one in self._held if one.pinned and one.current and one.folder != version.folder)
        return self.budget - sum(one.nbytes for one in others)

    def check(self, version: Version) -> None:
        """Raise AdapterError for a version for which there can be no room."""
        most = self.most(version)
        if version.nbytes > most:
            beside = "" if most == self.budget else f", {self.budget - most:,} of them for those that are pinned"
            raise AdapterError(
                f"{version.folder.name}: takes {version.nbytes:,} bytes, and there are {self.budget:,} for all "
                f"adapters{beside}; give more (--adapter-memory)"
            )

    def make_room(self, nbytes: int) -> bool:
        """Drop what may go, longest unused first, until so many bytes are free. Returns whether they are."""
        for version in list(self._held):
            if nbytes <= self.budget - self.nbytes:
                break
            if not version.users and not (version.pinned and version.current):
                self.drop(version)
                self.evictions += 1
        return nbytes <= self.budget - self.nbytes

    def put(self, version: Version, adapter: LoadedAdapter) -> bool:
        """Keep an adapter that was read. Returns False where there is no room for it now.

        Raises:
            AdapterError: there never will be.
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
        """Take note that a version in memory is used now."""
        self._held.pop(version)
        self._held[version] = None

    def drop(self, version: Version) -> None:
        """Take a version out of memory, if it is there."""
        if version in self._held:
            del self._held[version]
            self.nbytes -= version.nbytes
            version.adapter = None
