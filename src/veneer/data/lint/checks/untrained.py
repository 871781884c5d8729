"""Rows without any trained token."""

from __future__ import annotations

from collections.abc import Iterator

from veneer.data.lint.row import LintSetting, Row
from veneer.data.lint.rules import Cost, Finding, LintRule, RowCheck, Severity

NOTHING_TRAINED = LintRule(
    "nothing-trained",
    Severity.ERROR,
    Cost.TOKENS,
    "teach nothing: none of their tokens is a target",
    "give each row an assistant turn; a template with {% generation %} blocks must put them around the answers",
)


def _run(row: Row, setting: LintSetting) -> Iterator[Finding]:
    if row.asked is None and row.trace is not None and not row.trace.example.loss_mask.any():
        yield NOTHING_TRAINED.found(f"0 of {len(row.trace.example.tokens)} tokens train")


CHECK = RowCheck((NOTHING_TRAINED,), _run)
