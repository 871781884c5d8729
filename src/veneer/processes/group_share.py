"""Items that processes compute in turn, one each, and whose results all of them get (`veneer.generation.share.Share`).

It uses only the store in which the processes meet, and no collective: an item may take any time.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from veneer.generation.share import Blank, nothing
from veneer.processes.group import Group, Meeting
from veneer.processes.ranks import Ranks
from veneer.text.strict_json import to_text

TIMEOUT = 600.0
"""Seconds after which a process that does not answer ends the others."""


@dataclass(slots=True)
class GroupShare:
    """Deals every W-th item to this process, of W processes."""

    group: Group
    place: str = ""
    """The prefix of its tasks' keys, if other tasks are distributed at the same time."""
    _tasks: int = 0

    @property
    def first(self) -> bool:
        """See `Share`."""
        return self.group.ranks.first

    @property
    def processes(self) -> int:
        """See `Share`."""
        return self.group.ranks.local_world

    def from_first(self, make: Callable[[], Any]) -> Any:
        """See `Share`.

        Raises:
            RankLost: the first process is gone.
        """
        self._tasks += 1
        key = f"{self.place}first/{self._tasks}"
        if not self.first:
            return json.loads(self.group.awaited(key))
        made = make()
        if self.group.ranks.many:
            self.group.publish(key, to_text(made))
        return made

    def own(self, items: int) -> Sequence[int]:
        """See `Share`."""
        return range(self.group.ranks.rank, items, self.group.ranks.world)

    def all(self, found: Sequence[Any], items: int, blank: Blank = nothing) -> list[Any]:
        """See `Share`.

        Raises:
            RankLost: another process is gone.
        """
        ranks, self._tasks = self.group.ranks, self._tasks + 1
        if not ranks.many:
            return list(found)
        key = f"{self.place}items/{self._tasks}"
        self.group.publish(f"{key}/{ranks.rank}", to_text(list(found)))
        whole: list[Any] = [None] * items
        for rank in range(ranks.world):
            if rank == ranks.rank:
                whole[rank :: ranks.world] = found
            else:
                whole[rank :: ranks.world] = json.loads(self.group.awaited(f"{key}/{rank}"))
        return whole


def meeting(ranks: Ranks) -> Meeting:
    """The meeting of a command's processes, for commands other than training."""
    return Meeting(ranks, TIMEOUT)
