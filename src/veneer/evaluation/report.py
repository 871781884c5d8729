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
    """One row with the expected and the given answer."""

    where: str
    question: str
    reference: str
    base: str
    adapter: str | None
    base_loss: float | None = None
    """Nats per supervised token of the row with the base; None if the row has no supervised token."""
    adapter_loss: float | None = None
    base_exact: float | None = None
    """Whether the base's answer equals the reference: 1 or 0."""
    adapter_exact: float | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """The result of an evaluation."""

    rows: int
    base: list[Metric] = field(repr=False)
    adapter: list[Metric] = field(default_factory=list, repr=False)
    """The measures of the adapter; with several adapters (one for each seed), those of the first."""
    comparison: list[Comparison] = field(default_factory=list)
    """The comparisons of base and adapter; with several adapters, of their mean."""
    samples: list[Sample] = field(default_factory=list, repr=False)
    """Every row that has an answer, in order."""
    seconds: float = 0.0
    primary: str | None = None
    """The measure that decides. The p values of the others are adjusted for their number."""
    details: dict[str, dict[str, Any]] = field(default_factory=dict, repr=False)
    """Further results of metrics (confusion matrices, fields, signatures), under `base` and `adapter`."""
    adapters: list[str] = field(default_factory=list)
    """The folders of the adapters."""
    cluster: str | None = None
    """The column whose equal values make rows a cluster."""
    suites: list[SuiteResult] = field(default_factory=list)
    """What the adapter forgot: base and adapter on other tasks."""
    gate: GateResult | None = None
    """The answer of the gate, if one was given."""
    judge: JudgeResult | None = field(default=None, repr=False)
    """The judge's view of the answers, if a judge was given."""
    judge_error: str | None = None
    """Why there is no result of the judge, although one was given."""
    trained: dict[str, Any] | None = field(default=None, repr=False)
    """Facts and losses of the run that made the adapter; None if the adapter has no record of its run."""
    trained_rows: dict[str, list[str]] = field(default_factory=dict, repr=False)
    """The places of the rows that an adapter was trained on, by the adapter's folder; only adapters with such rows."""
    warnings: list[str] = field(default_factory=list)
    """Warnings: reasons why the result is less certain than it looks."""

    def to_json(self) -> dict[str, Any]:
        """The report as plain values."""
        return asdict(self)

    def _repr_html_(self) -> str:
        """The table that notebooks show, with the warnings."""
        if self.comparison:
            headings: tuple[str, ...] = ("", "base", "adapter", "difference", "95 % from", "to")
            rows: list[tuple[object, ...]] = [
                (one.name, one.base, one.adapter, one.difference, one.low, one.high) for one in self.comparison
            ]
        else:
            headings = ("", "value", "95 % from", "to")
            rows = [(one.name, one.value, one.low, one.high) for one in self.base]
        return html_table(count_of(self.rows, "row"), headings, rows) + html_notes(self.warnings)
