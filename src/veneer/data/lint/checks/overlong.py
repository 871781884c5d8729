"""Rows that the length limit drops or cuts. A cut removes above all the end of the answer.

Runs with an objective that compares or samples answers leave such rows out, whatever the other settings are.
"""

from __future__ import annotations

from collections.abc import Iterator

from veneer.data.kind_rows import IMITATED_KINDS
from veneer.data.lint.row import LintSetting, Row
from veneer.data.lint.rules import Cost, Finding, LintRule, RowCheck, Severity

OVERLONG = LintRule(
    "overlong",
    Severity.WARNING,
    Cost.TOKENS,
    "are longer than data.max_length, and are left out of training or cut (data.overlong)",
    "raise data.max_length, or shorten the rows; a row that is cut does not teach the model to stop",
)
LEFT_OUT = LintRule(
    "left-out",
    Severity.ERROR,
    Cost.TOKENS,
    "are longer than data.max_length, and are left out by an objective that never cuts rows",
    "raise data.max_length (--max-length here), or shorten the rows",
)


def _run(row: Row, setting: LintSetting) -> Iterator[Finding]:
    if row.trace is None or setting.max_length is None:
        return
    masks = [trace.example.loss_mask for trace in (row.trace, row.rejected_trace) if trace is not None]
    mask = max(masks, key=len)
    if len(mask) <= setting.max_length:
        return
    if setting.rows is not None and setting.rows not in IMITATED_KINDS:
        yield LEFT_OUT.found(f"{len(mask)} tokens, {len(mask) - setting.max_length} beyond {setting.max_length}")
    else:
        lost = int(mask[setting.max_length :].sum())
        yield OVERLONG.found(
            f"{len(mask)} tokens, {len(mask) - setting.max_length} beyond {setting.max_length}; "
            f"they contain {lost} of its {int(mask.sum())} targets"
        )


CHECK = RowCheck((OVERLONG, LEFT_OUT), _run)
