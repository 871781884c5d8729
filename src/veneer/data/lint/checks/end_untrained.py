"""Turns whose end is not a target: a model that is not trained to stop does not stop."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from veneer.data.encoded.chat import Trace
from veneer.data.lint.row import LintSetting, Row
from veneer.data.lint.rules import Cost, Finding, LintRule, RowCheck, Severity

END_UNTRAINED = LintRule(
    "end-untrained",
    Severity.ERROR,
    Cost.TOKENS,
    "do not teach the model to stop: a trained turn ends without a control token among its targets",
    "close assistant turns in the chat template with a control token (inside {% generation %}, if it has such blocks)",
)


def _run(row: Row, setting: LintSetting) -> Iterator[Finding]:
    if row.trace is None or row.record is None or setting.tokenizer is None:
        return
    if setting.tokenizer.eos_token is None and row.record.prompt is None and not row.record.messages:
        # A plain text is not an answer, and a tokenizer without an end-of-text token has nothing to end it with.
        return
    mask = row.trace.example.loss_mask
    ends = np.flatnonzero(mask & ~np.append(mask[1:], False)).tolist()
    open_ended = [last for last in ends if not _closed(row.trace, last, setting)]
    if open_ended:
        a, b = row.trace.offsets[open_ended[-1]]
        last = row.trace.text[a:b]
        yield END_UNTRAINED.found(f"{len(open_ended)} of {len(ends)} trained spans, the last ends with {last!r}")


def _closed(trace: Trace, last: int, setting: LintSetting) -> bool:
    """Whether a run of targets ends with a control token, possibly followed by white space."""
    mask, tokens = trace.example.loss_mask, trace.example.tokens
    while last >= 0 and mask[last] and int(tokens[last]) not in setting.special_ids:
        a, b = trace.offsets[last]
        if trace.text[a:b].strip():
            return False
        last -= 1
    return last >= 0 and bool(mask[last])


CHECK = RowCheck((END_UNTRAINED,), _run)
