from __future__ import annotations

import json

import numpy as np
import pytest

from helpers.rows.lint_rows import JOHN, clean, sentence, write
from helpers.texts import chat_templates as ct
from veneer.data.lint import report as module
from veneer.data.lint.registry import RULES
from veneer.data.lint.report import LintReport, Tally
from veneer.data.lint.row import LintSetting
from veneer.data.lint.rules import Finding, Severity
from veneer.data.lint.run import lint


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> LintReport:
    """One damaged row, one with a secret and an empty answer, one repeated twice."""
    rows = [*clean(6), {"messages": []}, {"prompt": sentence(70), "completion": "x AKIAIOSFODNN7EXAMQLE"}]
    rows += [{"prompt": JOHN, "completion": " \u200b"}, rows[2], rows[2]]
    folder = tmp_path_factory.mktemp("report")
    return lint(write(folder / "rows.jsonl", rows), LintSetting(ct.tokenizer("chatml")))


def test_findings_are_ordered_by_severity_and_then_as_the_rules_are() -> None:
    tally = Tally()
    for name in reversed(RULES):
        tally.add([3, 1], Finding(name, "x"))
    found = [one.rule for one in tally.ordered(())]
    assert found == sorted(RULES.values(), key=lambda rule: list(Severity).index(rule.severity))
    assert {tuple(one.rows) for one in tally.ordered(())} == {(1, 3)}


def test_a_row_is_listed_once_with_all_that_was_found() -> None:
    tally = Tally()
    tally.add([5], Finding("secret", "a key"))
    tally.add([2, 5], Finding("secret", "a token"))
    tally.add([9], Finding("overlong", "long"))
    (found,) = tally.ordered({"overlong"})
    assert (found.rule.name, list(found.rows)) == ("secret", [2, 5])
    assert found.details == {5: "a key; a token", 2: "a token"}


def test_rows_beyond_the_limit_are_counted_without_detail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_DETAILS_PER_RULE", 2)
    tally = Tally()
    tally.add([1, 2, 3, 4], Finding("secret", "a key"))
    (found,) = tally.ordered(())
    assert list(found.rows) == [1, 2, 3, 4]
    assert list(found.details) == [1, 2]


def test_a_row_with_two_findings_counts_once_for_its_severity(report: LintReport) -> None:
    for severity in Severity:
        rows = [row for found in report.found if found.rule.severity is severity for row in found.rows]
        assert report.rows_with(severity) == len(set(rows))
    assert report.failed
    assert {found.rule.name for found in report.of(Severity.ERROR)} == {"unusable-row", "empty-turn", "secret"}


def test_a_report_is_printed_in_a_few_lines(report: LintReport) -> None:
    """A shell of Python prints it; what is kept of every row filled pages."""
    assert len(repr(report)) < 1000


def test_the_report_as_json_says_every_row_and_nothing_else(report: LintReport) -> None:
    values = json.loads(json.dumps(report.to_json()))
    assert values["rows"] == 11
    assert {one["rule"]: [row["where"].rpartition(":")[2] for row in one["rows"]] for one in values["findings"]} == {
        "unusable-row": ["7"],
        "empty-turn": ["9"],
        "secret": ["8"],
        "duplicate": ["10", "11"],
    }
    assert all(one["count"] == len(one["rows"]) for one in values["findings"])
    assert values["not_checked"] == values["not_done"] == []


def test_the_lengths_are_those_of_the_usable_rows(report: LintReport) -> None:
    lengths = sorted(report.facts.length[report.facts.usable].tolist())
    said = report.statistics()["lengths"]
    assert (said["unit"], said["total"], said["shortest"], said["longest"]) == (
        "tokens",
        sum(lengths),
        lengths[0],
        lengths[-1],
    )
    assert said["median"] in (lengths[4], lengths[5])
    assert said["targets"] == int(np.sum(report.facts.targets))
