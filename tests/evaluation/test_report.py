from __future__ import annotations

from veneer.evaluation.report import Report
from veneer.evaluation.statistics.compare import Comparison, Metric


def test_a_notebook_shows_the_measures_and_what_makes_them_unsure() -> None:
    base = [Metric("exact", 0.5, 0.4, 0.6)]
    alone = Report(rows=3, base=base, warnings=["3 rows say <little>"])._repr_html_()
    assert "<th>95 % from</th>" in alone
    assert "3 rows say &lt;little&gt;" in alone
    both = Report(rows=3, base=base, comparison=[Comparison("exact", 0.5, 0.75, 0.25, 0.1, 0.3)])._repr_html_()
    assert "<th>difference</th>" in both
    assert "<ul>" not in both
