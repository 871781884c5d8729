"""Turns whose end is no target: a model that was never taught to stop does not stop."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from veneer.data.lint.row import LintSetting, Row
from veneer.data.lint.rules import Cost, Finding, LintRule, RowCheck, Severity

END_UNTRAINED = LintRule(
    "end-untrained",
    Severity.ERROR,
    Cost.TOKENS,
    "do not teach the model to stop: a trained turn ends without a control token among its targets",
    "close assistant turns in the chat template with a control token (inside {% generation %}, where it has those)",
)


def _run(row: Row, setting: LintSetting) -> Iterator[Finding]:
    if row.trace is None or setting.tokenizer is None:
        return
    mask = row.trace.example.loss_mask
    # Where a run of targets ends: the last of them must be a control token.
    ends = np.flatnonzero(mask & ~np.append(mask[1:], False))
    tokens = row.trace.example.tokens
    open_ended = [int(end) for end in ends if int(tokens[end]) not in setting.special_ids]
    if open_ended:
        a, b = row.trace.offsets[open_ended[-1]]
        last = row.trace.text[a:b]
        yield END_UNTRAINED.found(f"{len(open_ended)} of {len(ends)} trained spans, the last ends with {last!r}")


CHECK = RowCheck((END_UNTRAINED,), _run)
