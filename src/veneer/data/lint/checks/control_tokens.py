"""Rows that spell the control tokens of the model, like texts that were rendered with a template beforehand."""

from __future__ import annotations

from collections.abc import Iterator

from veneer.data.lint.row import LintSetting, Row
from veneer.data.lint.rules import Cost, Finding, LintRule, RowCheck, Severity

CONTROL_TOKENS = LintRule(
    "control-tokens-spelled",
    Severity.WARNING,
    Cost.TOKENS,
    "spell a control token of the model, which counts as ordinary text",
    "give conversations as messages instead of as rendered text; if the text is about such tokens, nothing is wrong",
)


def _run(row: Row, setting: LintSetting) -> Iterator[Finding]:
    if row.trace is None or not row.trace.spelled or setting.tokenizer is None:
        return
    for path, text in row.texts:
        spelled = [token for token in setting.tokenizer.special_tokens if token and token in text]
        if spelled:
            yield CONTROL_TOKENS.found(f"{path} spells {', '.join(repr(token) for token in spelled[:3])}")
            return


CHECK = RowCheck((CONTROL_TOKENS,), _run)
