"""What a check may find: rules with their severity, cost and remedy."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from veneer.data.lint.facts import FileFacts
    from veneer.data.lint.row import LintSetting, Row


class Severity(Enum):
    """How certain it is that a finding does harm."""

    ERROR = "error"
    """The row cannot train what it is meant to, or makes a result untrue."""
    WARNING = "warning"
    """The row is very likely not what was meant."""
    INFO = "info"
    """Something to know, which is often as it should be."""


class Cost(Enum):
    """What a check needs, and so what it takes."""

    TEXT = "text"
    """The row's strings: microseconds a row."""
    TOKENS = "tokens"
    """The row as the model reads it, so a model's tokenizer and template: about a millisecond a row."""
    MODEL = "model"
    """A pass of the model over the rows, which is made only where it is asked for."""
    FILE = "file"
    """Hashes of all rows: microseconds a row, and some 200 bytes of memory."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing found in one row."""

    rule: str
    """The name of the rule."""
    detail: str
    """What was found, with the values met."""


@dataclass(frozen=True, slots=True)
class LintRule:
    """One thing that can be found."""

    name: str
    severity: Severity
    cost: Cost
    summary: str
    """What is wrong, so that it goes on after "rows that"."""
    remedy: str
    """What to do about it."""

    def found(self, detail: str) -> Finding:
        """A finding under this rule."""
        return Finding(self.name, detail)


@dataclass(frozen=True, slots=True)
class RowCheck:
    """A check that looks at one row at a time."""

    rules: tuple[LintRule, ...]
    run: Callable[[Row, LintSetting], Iterable[Finding]]


@dataclass(frozen=True, slots=True)
class FileCheck:
    """A check that compares rows with each other, by what was noted of each."""

    rules: tuple[LintRule, ...]
    run: Callable[[FileFacts], Iterable[tuple[Sequence[int], Finding]]]
    """Yields the numbers of the rows that a finding holds for, with the finding."""
