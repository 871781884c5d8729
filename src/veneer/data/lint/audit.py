"""The checks of rows within a run: rows that are certain to do harm are refused, and other findings are noted.

A run already has each row as a record and as tokens, so the checks cost a tenth of encoding. Rows are not compared with
each other here; `veneer data` does that.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from veneer.data.encoded.chat import Trace
from veneer.data.forms.record import Record
from veneer.data.lint.checks.control_tokens import CONTROL_TOKENS
from veneer.data.lint.registry import ROW_CHECKS, RULES
from veneer.data.lint.row import LintSetting, Row
from veneer.data.lint.rules import Finding, LintRule, RowCheck, Severity
from veneer.enums import Check
from veneer.io.tokenizer import Tokenizer

SAID_ELSEWHERE = frozenset({CONTROL_TOKENS.name})
"""Rules whose rows are already named by the account of encoding."""


@dataclass(slots=True)
class Told:
    """The findings of a rule in rows that it does not refuse."""

    count: int
    where: str
    """Where the first of the rows is."""
    detail: str
    """What is wrong with that row."""


@dataclass(slots=True)
class RowAudit:
    """Checks the rows of a run as they are encoded."""

    tokenizer: Tokenizer
    """The tokenizer of the rows."""
    refusing: Collection[Check]
    """The rules under which a row is refused."""
    _told: dict[str, Told] = field(default_factory=dict)
    _setting: LintSetting = field(init=False)
    _refusing: frozenset[str] = field(init=False)
    _checks: tuple[RowCheck, ...] = field(init=False)
    """The checks with a rule that refuses rows or is noted; the findings of others would be dropped."""

    def __post_init__(self) -> None:
        self._setting = LintSetting(self.tokenizer)
        self._refusing = frozenset(check.value for check in self.refusing)
        self._checks = tuple(
            check for check in ROW_CHECKS if any(rule.name in self._refusing or is_said(rule) for rule in check.rules)
        )

    def refusal(self, record: Record, trace: Trace) -> str | None:
        """Why a row is refused; None if it may be trained. Other findings are kept for `notes`."""
        row = Row(record.where, _raw(record), record, trace=trace)
        reasons = []
        for check in self._checks:
            for finding in check.run(row, self._setting):
                if finding.rule in self._refusing:
                    reasons.append(f"{finding.rule}: {finding.detail}; {RULES[finding.rule].remedy}")
                elif is_said(RULES[finding.rule]):
                    self._tell(finding, record.where)
        return "; ".join(reasons) or None

    def _tell(self, finding: Finding, where: str) -> None:
        told = self._told.setdefault(finding.rule, Told(0, where, finding.detail))
        told.count += 1

    def taken(self) -> dict[str, Told]:
        """The findings that were not refused, by rule. They are removed here, for another audit to `join` them."""
        found, self._told = self._told, {}
        return found

    def join(self, told: Mapping[str, Told]) -> None:
        """Add the findings of another audit in rows after these."""
        for name, one in told.items():
            known = self._told.setdefault(name, Told(0, one.where, one.detail))
            known.count += one.count

    def notes(self, what: str) -> list[str]:
        """The findings that were not refused, one sentence for each rule.

        Args:
            what: the kind of rows: "training" or "evaluation".
        """
        return [
            f"{name} ({told.count:,} {what} row{'s'[: told.count - 1]}): rows that {RULES[name].summary} "
            f"(first: {told.where}: {told.detail}); `veneer data` names all"
            for name, told in self._told.items()
        ]


def is_said(rule: LintRule) -> bool:
    """Whether a run notes the findings of a rule in rows that it does not refuse."""
    return rule.name not in SAID_ELSEWHERE and rule.severity is not Severity.INFO


def _raw(record: Record) -> dict[str, Any]:
    """A record as a row of a file might have it, for the paths of its fields."""
    if record.text is not None:
        return {"text": record.text}
    return {"messages": list(record.messages)}
