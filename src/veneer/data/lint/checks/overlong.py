"""Rows that the length limit drops or cuts; what is cut is above all the end of the answer."""

from __future__ import annotations

from collections.abc import Iterator

from veneer.data.lint.row import LintSetting, Row
from veneer.data.lint.rules import Cost, Finding, LintRule, RowCheck, Severity

OVERLONG = LintRule(
    "overlong",
    Severity.WARNING,
    Cost.TOKENS,
    "are longer than data.max_length, and are left out of training, or cut (data.overlong)",
    "raise data.max_length, or shorten the rows; a row that is cut does not teach the model to stop",
)


def _run(row: Row, setting: LintSetting) -> Iterator[Finding]:
    if row.trace is None or setting.max_length is None:
        return
    masks = [trace.example.loss_mask for trace in (row.trace, row.rejected_trace) if trace is not None]
    mask = max(masks, key=len)
    if len(mask) > setting.max_length:
        lost = int(mask[setting.max_length :].sum())
        yield OVERLONG.found(
            f"{len(mask)} tokens, {len(mask) - setting.max_length} beyond {setting.max_length}; "
            f"they hold {lost} of its {int(mask.sum())} targets"
        )


CHECK = RowCheck((OVERLONG,), _run)
