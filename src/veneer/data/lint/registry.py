"""All checks, in the order in which their findings are reported."""

from __future__ import annotations

from veneer.data.lint.checks import (
    boilerplate,
    by_model,
    content_lost,
    control_tokens,
    doubled_bos,
    duplicates,
    encoding,
    end_untrained,
    label_spelling,
    leakage,
    near_duplicates,
    outliers,
    overlong,
    personal_data,
    preferences,
    secrets,
    tool_calls,
    turns,
    untrained,
    unusable,
)
from veneer.data.lint.rules import FileCheck, LintRule, RowCheck

ROW_CHECKS: tuple[RowCheck, ...] = (
    unusable.CHECK,
    untrained.CHECK,
    end_untrained.CHECK,
    content_lost.CHECK,
    tool_calls.CHECK,
    doubled_bos.CHECK,
    turns.CHECK,
    boilerplate.CHECK,
    control_tokens.CHECK,
    overlong.CHECK,
    encoding.CHECK,
    secrets.CHECK,
    personal_data.CHECK,
)
FILE_CHECKS: tuple[FileCheck, ...] = (
    leakage.CHECK,
    duplicates.CHECK,
    near_duplicates.CHECK,
    label_spelling.CHECK,
    outliers.CHECK,
    preferences.CHECK,
)
RULES: dict[str, LintRule] = {
    rule.name: rule
    for rules in [check.rules for check in ROW_CHECKS] + [check.rules for check in FILE_CHECKS] + [by_model.MODEL_RULES]
    for rule in rules
}
"""Every rule by its name."""
