"""Targets that nobody wrote: the header of a turn, which generation supplies, and empty thoughts."""

from __future__ import annotations

import re
from collections.abc import Iterator

from veneer.data.lint.row import LintSetting, Row
from veneer.data.lint.rules import Cost, Finding, LintRule, RowCheck, Severity

BOILERPLATE = LintRule(
    "boilerplate-trained",
    Severity.WARNING,
    Cost.TOKENS,
    "train empty thoughts, or a header that the generation prompt supplies",
    "write thoughts into the rows or remove the empty ones; else use a template that marks only answers as trained",
)
# The opening may be before the span: some generation prompts supply it.
_EMPTY = re.compile(r"(?:<(?:think|thinking|reasoning)>|\A)\s*</(?:think|thinking|reasoning)>")


def _run(row: Row, setting: LintSetting) -> Iterator[Finding]:
    trace = row.trace
    if trace is None or row.record is None or not row.record.messages or setting.tokenizer is None:
        return
    controls = setting.tokenizer.special_tokens
    aliases = setting.tokenizer.aliases
    written = [placed.start for placed in row.fields if placed.found]
    for start, end in trace.spans:
        span = trace.text[start:end]
        empty = _EMPTY.search(span)
        if empty is not None:
            said = any(_EMPTY.search(text) for _, text in row.texts)
            source = "the row contains it" if said else "the row does not contain it"
            yield BOILERPLATE.found(f"{empty.group()!r} is trained, and {source}")
            return
        first = min((at for at in written if start <= at < end), default=None)
        before = "" if first is None else trace.text[start:first]
        if before and any((aliases[token] if trace.spelled else token) in before for token in controls):
            yield BOILERPLATE.found(f"the header {before!r} is trained")
            return


CHECK = RowCheck((BOILERPLATE,), _run)
