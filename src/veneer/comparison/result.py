"""The result of a comparison: figures of each method, their differences, and what failed."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from veneer.comparison.order import RunOutcome
from veneer.comparison.request import CompareRequest
from veneer.comparison.summary import Difference, MethodSummary
from veneer.html.notebook import html_facts, html_table
from veneer.text.counting import count_of


@dataclass(frozen=True, slots=True)
class CompareResult:
    """The result of a comparison."""

    config: CompareRequest
    training_rows: int
    evaluation_rows: int
    outcomes: list[RunOutcome] = field(repr=False)
    """All finished runs, the base first."""
    problems: dict[str, str]
    """Runs that failed, by name, with the reason."""
    methods: list[MethodSummary]
    differences: list[Difference]
    primary: str | None = None
    """The measure that decides; None means the first one. The p values of the others are adjusted for their number."""
    details: dict[str, Any] = field(default_factory=dict, repr=False)
    """Further results of metrics (confusion matrices, fields, signatures), by run."""
    warnings: list[str] = field(default_factory=list)
    """Warnings about the measures: rows are both trained and scored, or few rows are scored."""

    def _repr_html_(self) -> str:
        """The tables that notebooks show."""
        title = (
            f"{self.config.model}: {count_of(self.training_rows, 'training row')}, "
            f"{count_of(self.evaluation_rows, 'evaluation row')}"
        )
        names = list(dict.fromkeys(name for one in self.methods for name in one.metrics))
        rows = [
            (one.method, len(one.seeds), *(one.metrics[name].mean if name in one.metrics else "" for name in names))
            for one in self.methods
        ]
        failed = html_facts("not run", self.problems) if self.problems else ""
        return html_table(title, ("method", "seeds", *names), rows) + failed

    def to_json(self) -> dict[str, Any]:
        """The result as plain values, without the single rows."""
        values = asdict(self)
        values["config"]["methods"] = [method.value for method in self.config.methods]
        values["config"]["more"] = {method.value: more for method, more in self.config.more.items()}
        values["config"]["preference"] = None if self.config.preference is None else self.config.preference.value
        for outcome in values["outcomes"]:
            del outcome["rows"]
        return values
