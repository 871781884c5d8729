"""The findings of the checks, gathered by rule, also as JSON."""

from __future__ import annotations

from array import array
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from veneer.data.lint.facts import FileFacts
from veneer.data.lint.registry import RULES
from veneer.data.lint.row import LintSetting
from veneer.data.lint.rules import Finding, LintRule, Severity
from veneer.enums import ObjectiveName

MOST_DETAILS_PER_RULE = 50_000
"""The number of rows of a rule for which the detail is kept; further rows are only listed."""


@dataclass(frozen=True, slots=True)
class Found:
    """All findings under one rule."""

    rule: LintRule
    rows: Sequence[int]
    """The indices of the rows, ascending, each once."""
    details: dict[int, str]
    """The detail for each row; only for the first rows if there are very many."""


@dataclass(slots=True)
class Tally:
    """Gathers findings by rule."""

    _rows: dict[str, array[int]] = field(default_factory=dict)
    _details: dict[str, dict[int, str]] = field(default_factory=dict)

    def add(self, rows: Sequence[int], finding: Finding) -> None:
        """Add a finding that is true of these rows."""
        self._rows.setdefault(finding.rule, array("q")).extend(rows)
        details = self._details.setdefault(finding.rule, {})
        for row in rows[: max(0, MOST_DETAILS_PER_RULE - len(details))]:
            details[row] = f"{details[row]}; {finding.detail}" if row in details else finding.detail

    def ordered(self, ignore: Collection[str]) -> tuple[Found, ...]:
        """The findings, errors first, without those of ignored rules."""
        severities = list(Severity)
        names = [name for name in RULES if name in self._rows and name not in ignore]
        names.sort(key=lambda name: severities.index(RULES[name].severity))
        return tuple(
            Found(RULES[name], np.unique(np.frombuffer(self._rows[name], dtype=np.int64)).tolist(), self._details[name])
            for name in names
        )


@dataclass(frozen=True, slots=True, eq=False)
class LintReport:
    """The findings in a data file."""

    files: tuple[str, ...]
    """The names of the files (`veneer.data.files.given_names`)."""
    setting: LintSetting = field(repr=False)
    """How the rows were read, which also determines how they are shown."""
    facts: FileFacts = field(repr=False)
    found: tuple[Found, ...] = field(repr=False)
    """The findings under each rule, errors first."""
    skipped: tuple[str, ...]
    """Rules that were not checked, because they need a model's tokenizer and no model was named."""
    seconds: float
    undone: tuple[str, ...] = ()
    """Checks that were requested but not done, one sentence each with the reason."""

    @property
    def objective(self) -> ObjectiveName | None:
        """The objective for which the rows were checked; None if the kind of each row was derived from its keys."""
        return self.setting.objective

    @property
    def rows(self) -> int:
        """The number of checked rows."""
        return len(self.facts)

    def of(self, severity: Severity) -> list[Found]:
        """The findings of one severity."""
        return [found for found in self.found if found.rule.severity is severity]

    def rows_with(self, severity: Severity) -> int:
        """The number of rows with a finding of this severity."""
        return len({row for found in self.of(severity) for row in found.rows})

    @property
    def failed(self) -> bool:
        """Whether an error was found."""
        return bool(self.of(Severity.ERROR))

    def to_json(self) -> dict[str, Any]:
        """The report as plain values."""
        return {
            "files": list(self.files),
            "objective": None if self.objective is None else self.objective.value,
            "rows": self.rows,
            "seconds": round(self.seconds, 3),
            "rows_with": {severity.value: self.rows_with(severity) for severity in Severity},
            "findings": [
                {
                    "rule": found.rule.name,
                    "severity": found.rule.severity.value,
                    "summary": found.rule.summary,
                    "remedy": found.rule.remedy,
                    "count": len(found.rows),
                    "rows": [{"where": self.facts.where(row), "detail": found.details.get(row)} for row in found.rows],
                }
                for found in self.found
            ],
            "not_checked": list(self.skipped),
            "not_done": list(self.undone),
            **self.statistics(),
        }

    def statistics(self) -> dict[str, Any]:
        """The lengths of the rows, in tokens if a model is named, and otherwise in characters."""
        usable = self.facts.length[self.facts.usable]
        if not len(usable):
            return {"lengths": None}
        at = np.quantile(usable, [0.0, 0.5, 0.9, 0.99, 1.0], method="nearest").tolist()
        return {
            "lengths": {
                "unit": "tokens" if self.facts.counted.any() else "characters",
                **dict(zip(("shortest", "median", "p90", "p99", "longest"), at, strict=True)),
                "total": int(usable.sum()),
                "targets": int(self.facts.targets.sum()),
            }
        }
