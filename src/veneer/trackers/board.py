"""What a tracker's library is made into, so that every one is told the same: numbers, texts, tables and documents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Protocol

Cell = str | float | int | None
DIGESTED = 9
"""Characters that `digested` puts behind a name."""


def digested(taken: str, name: str) -> str:
    """What a library takes of a name that it does not take whole, with a digest of the name: no two become one."""
    return f"{taken}-{sha256(name.encode()).hexdigest()[: DIGESTED - 1]}"


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under the names of their columns."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]


@dataclass(frozen=True, kw_only=True, slots=True)
class TrackedRun:
    """A run as a tracker knows it."""

    id: str
    """An id that the run keeps when it is resumed."""
    name: str
    """The name of its folder."""
    folder: str
    project: str
    """What runs are gathered under."""
    online: bool
    """Whether anything may be sent."""
    settings: Mapping[str, Any]
    """The configuration with everything chosen, as nested values."""
    resumed_at: int
    """Steps that were made before; 0 for a new run."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrackedOutcome:
    """What a run that has ended well left behind, beside its events."""

    documents: Mapping[str, Any] = field(default_factory=dict)
    """Plain values by the names of files: the plan, `run.lock`."""
    tables: Mapping[str, Table] = field(default_factory=dict)
    """Tables by their names: that of the evaluation."""


class Board(Protocol):
    """A run in a tracker's library. Whatever it raises ends the tracker, and nothing else."""

    def numbers(self, values: Mapping[str, float], step: int) -> None:
        """Keep numbers of a step, by their names."""
        ...

    def text(self, name: str, text: str, step: int) -> None:
        """Keep a text that was said after a step."""
        ...

    def table(self, name: str, table: Table, step: int) -> None:
        """Keep a table that was made after a step."""
        ...

    def document(self, name: str, text: str) -> None:
        """Keep a document of the whole run."""
        ...

    def close(self, reason: str) -> None:
        """Write what is not written yet. `reason` is that of `RunFinished`; `killed` where the run told of no end."""
        ...
