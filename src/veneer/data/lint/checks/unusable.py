"""Rows that cannot be read, or that the model's chat template refuses."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from veneer.data.lint.row import LintSetting, Row
from veneer.data.lint.rules import Cost, Finding, LintRule, RowCheck, Severity

UNUSABLE = LintRule(
    "unusable-row",
    Severity.ERROR,
    Cost.TEXT,
    "cannot be used: they are damaged, have an unknown format, or break the rules of their format",
    "correct or remove them, or map their columns by --columns (data.columns in a run); docs/data-files.md has formats",
)
UNANSWERED = replace(
    UNUSABLE,
    remedy="every row asks without an answer: if answers are to be sampled, check them with --objective grpo; else "
    "give them answers, or map their columns by --columns (data.columns in a run); docs/data-files.md has formats",
)
"""UNUSABLE for a file with nothing but prompts that is checked for no objective."""
REFUSED = LintRule(
    "refused-by-template",
    Severity.ERROR,
    Cost.TOKENS,
    "cannot be written with the model's chat template, or their turns cannot be told apart in it",
    "change the rows as the message says, or use a model whose template accepts such conversations",
)


def _run(row: Row, setting: LintSetting) -> Iterator[Finding]:
    if row.problem is not None:
        yield (UNUSABLE if row.record is None else REFUSED).found(row.problem)


CHECK = RowCheck((UNUSABLE, REFUSED), _run)
