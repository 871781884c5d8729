"""Which adapters are in memory: a budget in bytes, and who gives way. Plain Python, without a model.

Whatever is in use stays. Of the others, the one that was used longest ago gives way first; pinned ones never do.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)


@dataclass(slots=True)
class Residency(Generic[Key]):
    """Counts what is held in memory, and says what to give up.

    Args:
        budget: bytes that everything that is held may take.
    """

    budget: int
    _bytes: dict[Key, int] = field(default_factory=dict)
    _users: dict[Key, int] = field(default_factory=dict)
    _idle: OrderedDict[Key, None] = field(default_factory=OrderedDict)
    _pinned: set[Key] = field(default_factory=set)

    @property
    def held(self) -> int:
        """Bytes that are held."""
        return sum(self._bytes.values())

    def make_room(self, size: int) -> list[Key] | None:
        """What to give up, so that `size` more bytes can be held, and no more than that.

        Returns None where that cannot be, as long as nothing that is in use is given back; nothing is given up then.
        What is larger than the budget fits alone.
        """
        given: list[Key] = []
        left = self.held + size - self.budget
        candidates = [key for key in self._idle if key not in self._pinned]
        while left > 0 and candidates:
            given.append(candidates.pop(0))
            left -= self._bytes[given[-1]]
        if left > 0 and len(given) < len(self._bytes):
            return None
        for key in given:
            self.drop(key)
        return given

    def hold(self, key: Key, size: int, *, pinned: bool = False) -> None:
        """Count something, which is in use by nobody yet; the size may be corrected later by calling this again."""
        known = key in self._bytes
        self._bytes[key] = size
        if pinned:
            self._pinned.add(key)
        if not known and not self._users.get(key):
            self._idle[key] = None

    def holds(self, key: Key) -> bool:
        """Whether this is counted."""
        return key in self._bytes

    def use(self, key: Key) -> None:
        """One user more."""
        self._users[key] = self._users.get(key, 0) + 1
        self._idle.pop(key, None)

    def release(self, key: Key) -> bool:
        """One user less; returns whether there is none any more."""
        self._users[key] -= 1
        if self._users[key]:
            return False
        del self._users[key]
        if key in self._bytes:
            self._idle[key] = None
        return True

    def used(self, key: Key) -> bool:
        """Whether somebody uses this."""
        return key in self._users

    def drop(self, key: Key) -> None:
        """Count this no longer."""
        self._bytes.pop(key, None)
        self._idle.pop(key, None)
        self._pinned.discard(key)
