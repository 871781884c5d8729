"""Rows that begin with the start-of-text token twice, which costs accuracy and is not visible in the text."""

from __future__ import annotations

from collections.abc import Iterator

from veneer.data.lint.row import LintSetting, Row
from veneer.data.lint.rules import Cost, Finding, LintRule, RowCheck, Severity

DOUBLED_BOS = LintRule(
    "doubled-bos",
    Severity.ERROR,
    Cost.TOKENS,
    "begin with the start-of-text token twice",
    "remove the token from the rows or from the chat template; veneer adds it if the tokenizer does",
)


def _run(row: Row, setting: LintSetting) -> Iterator[Finding]:
    if row.trace is None or setting.tokenizer is None or setting.tokenizer.bos_token is None:
        return
    bos, name = setting.bos_id, setting.tokenizer.bos_token
    tokens = row.trace.example.tokens
    if len(tokens) > 1 and tokens[0] == bos == tokens[1]:
        yield DOUBLED_BOS.found(f"the first two tokens are {name!r}")
        return
    # Spelled in the row it is ordinary text here, but a second start-of-text token in programs that do not guard it.
    first = row.fields[0] if row.fields else None
    if first is not None and tokens[0] == bos and first.source.text.lstrip().startswith(name) and first.found:
        yield DOUBLED_BOS.found(f"{first.source.path} begins with {name!r}, which is written before it as well")


CHECK = RowCheck((DOUBLED_BOS,), _run)
