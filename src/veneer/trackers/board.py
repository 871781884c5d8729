"""The common interface of all trackers' libraries: numbers, texts, tables and documents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Protocol

Cell = str | float | int | None
DIGESTED = 9
"""The number of characters that `digested` appends to a name."""


def digested(taken: str, name: str) -> str:
    """The part of a name that a library accepts, with a digest of the whole name, so that different names stay
    different."""
    return f"{taken}-{sha256(name.encode()).hexdigest()[: DIGESTED - 1]}"


@dataclass(frozen=True, slots=True)
class Table:
    """Rows, with the names of their columns."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]


@dataclass(frozen=True, kw_only=True, slots=True)
class TrackedRun:
    """A run, for a tracker."""

    id: str
    """The id of the run, which it keeps when it is resumed."""
    name: str
    """The name of its folder."""
    folder: str
    project: str
    """The name that groups runs."""
    online: bool
    """Whether anything may be sent over the network."""
    settings: Mapping[str, Any]
    """The configuration with everything chosen, as nested values."""
    resumed_at: int
    """The number of steps that were made before; 0 for a new run."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrackedOutcome:
    """The results of a run that has ended well, in addition to its events."""

    documents: Mapping[str, Any] = field(default_factory=dict)
    """Plain values by the names of files: the plan, `run.lock`."""
    tables: Mapping[str, Table] = field(default_factory=dict)
    """Tables by their names: the table of the evaluation."""


class Board(Protocol):
    """A run in a tracker's library. An error that it raises ends only the tracker."""

    def numbers(self, values: Mapping[str, float], step: int) -> None:
        """Keep the numbers of a step, by name."""
        ...

    def text(self, name: str, text: str, step: int) -> None:
        """Keep text that was reported after a step."""
        ...

    def table(self, name: str, table: Table, step: int) -> None:
        """Keep a table that was made after a step."""
        ...

    def document(self, name: str, text: str) -> None:
        """Keep a document of the whole run."""
        ...

    def close(self, reason: str) -> None:
        """Write what is not written yet. `reason` is a `RunEnd`, or `killed` if the run reported no end."""
        ...
