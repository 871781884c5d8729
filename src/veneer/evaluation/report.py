"""The result of an evaluation, as values."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from veneer.evaluation.forgetting import SuiteResult
from veneer.evaluation.gate import GateResult
from veneer.evaluation.judge.verdicts import JudgeResult
from veneer.evaluation.statistics.compare import Comparison, Metric
from veneer.html.notebook import html_notes, html_table
from veneer.text.counting import count_of


@dataclass(frozen=True, slots=True)
class Sample:
    """One row with what was expected and what came."""

    where: str
    question: str
    reference: str
    base: str
    adapter: str | None
    base_loss: float | None = None
    """Nats per supervised token of the row with the base; None where the row has none."""
    adapter_loss: float | None = None
    base_exact: float | None = None
    """Whether the base's answer is the reference: 1 or 0."""
    adapter_exact: float | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """The result of an evaluation."""

    rows: int
    base: list[Metric] = field(repr=False)
    adapter: list[Metric] = field(default_factory=list, repr=False)
    """The measures of the adapter; of several adapters (one for each seed), those of the first."""
    comparison: list[Comparison] = field(default_factory=list)
    """Base and adapter; of several adapters, their mean."""
    samples: list[Sample] = field(default_factory=list, repr=False)
    """Every row that has an answer, in order."""
    seconds: float = 0.0
    primary: str | None = None
    """The measure that decides; the p values of the others are adjusted for their number."""
    details: dict[str, dict[str, Any]] = field(default_factory=dict, repr=False)
    """What metrics found beside their measures (confusion matrices, fields, signatures), by `base` and `adapter`."""
    adapters: list[str] = field(default_factory=list)
    """The folders of the adapters."""
    cluster: str | None = None
    """The column whose equal values made a cluster."""
    suites: list[SuiteResult] = field(default_factory=list)
    """What was forgotten: base and adapter on other tasks."""
    gate: GateResult | None = None
    """The answer of the gate that was asked."""
    judge: JudgeResult | None = field(default=None, repr=False)
    """What a judge says of the answers, where one was asked."""
    judge_error: str | None = None
    """Why the judge that was asked says nothing."""
    trained: dict[str, Any] | None = field(default=None, repr=False)
    """What was trained: facts and losses of the run that made the adapter; None where it has no record of its run."""
    trained_rows: dict[str, list[str]] = field(default_factory=dict, repr=False)
    """Where the rows stand that an adapter's run has trained, by the adapter's folder; only those with such rows."""
    warnings: list[str] = field(default_factory=list)
    """What makes the result less sure than it looks."""

    def to_json(self) -> dict[str, Any]:
        """The report as plain values."""
        return asdict(self)

    def _repr_html_(self) -> str:
        """The table that notebooks show, and what makes it less sure than it looks."""
        if self.comparison:
            headings: tuple[str, ...] = ("", "base", "adapter", "difference", "95 % from", "to")
            rows: list[tuple[object, ...]] = [
                (one.name, one.base, one.adapter, one.difference, one.low, one.high) for one in self.comparison
            ]
        else:
            headings = ("", "value", "95 % from", "to")
            rows = [(one.name, one.value, one.low, one.high) for one in self.base]
        return html_table(count_of(self.rows, "row"), headings, rows) + html_notes(self.warnings)
