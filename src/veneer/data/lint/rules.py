"""The possible findings of the checks: rules with their severity, cost and remedy."""

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
    """Something to know, which is often intended."""


class Cost(Enum):
    """What a check needs, and so what it costs."""

    TEXT = "text"
    """It needs the row's strings: microseconds a row."""
    TOKENS = "tokens"
    """It needs the row's tokens, so a model's tokenizer and template: about a millisecond a row."""
    MODEL = "model"
    """It needs a pass of the model over the rows, which is made only on request."""
    FILE = "file"
    """It needs hashes of all rows: microseconds and some 200 bytes of memory a row."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding in one row."""

    rule: str
    """The name of the rule."""
    detail: str
    """What was found, with its values."""


@dataclass(frozen=True, slots=True)
class LintRule:
    """One kind of finding."""

    name: str
    severity: Severity
    cost: Cost
    summary: str
    """What is wrong, as a continuation of "rows that"."""
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
    """A check that compares rows with each other, by their facts."""

    rules: tuple[LintRule, ...]
    run: Callable[[FileFacts], Iterable[tuple[Sequence[int], Finding]]]
    """Yields the indices of the rows that a finding is true of, with the finding."""
