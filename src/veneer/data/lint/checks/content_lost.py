"""Parts of a row that the model never sees: turns, thoughts and tools that the chat template leaves out."""

from __future__ import annotations

from collections.abc import Iterator

from veneer.data.lint.fields import FieldKind, Placed
from veneer.data.lint.row import LintSetting, Row
from veneer.data.lint.rules import Cost, Finding, LintRule, RowCheck, Severity

CONTENT_LOST = LintRule(
    "content-lost",
    Severity.ERROR,
    Cost.TOKENS,
    "contain something that the chat template leaves out",
    "move it into a turn that the template writes (a system turn into the first question, say), or change the template",
)
OLD_THOUGHTS = LintRule(
    "old-thoughts-lost",
    Severity.WARNING,
    Cost.TOKENS,
    "contain thoughts in earlier turns, which the template leaves out, as it does in use",
    "to train every turn's thoughts, make a row of each turn, with the conversation before it",
)
_EXCERPT_CHARS = 60


def _run(row: Row, setting: LintSetting) -> Iterator[Finding]:
    if row.trace is None or row.record is None:
        return
    # Tool calls have a check of their own.
    lost = [placed for placed in row.fields if not placed.found and placed.source.kind is not FieldKind.CALL]
    if not lost:
        return
    questions = [i for i, message in enumerate(row.record.messages) if message["role"] == "user"]
    last_question = questions[-1] if questions else -1
    lost = [placed for placed in lost if not _all_lines_found(placed, row.trace.text)]
    old = [one for one in lost if one.source.kind is FieldKind.THOUGHT and (one.source.turn or 0) < last_question]
    if row.asked is not None:
        lost, old = [one for one in lost if one not in old], []  # nothing in a prompt is trained, so nothing is lost
    for rule, these in ((OLD_THOUGHTS, old), (CONTENT_LOST, [one for one in lost if one not in old])):
        if these:
            yield rule.found("; ".join(_shown(one) for one in these[:3]))


def _all_lines_found(placed: Placed, text: str) -> bool:
    """Whether the only change is in the white space between lines (a template that indents or joins lines)."""
    lines = [line.strip() for line in placed.source.text.splitlines()]
    return len(lines) > 1 and all(line in text for line in lines)


def _shown(placed: Placed) -> str:
    source = placed.source
    what = {FieldKind.THOUGHT: "the thought", FieldKind.TOOL: "the tool", FieldKind.CONTENT: f"the {source.role} text"}[
        source.kind
    ]
    text = " ".join(source.text.split())
    excerpt = text if len(text) <= _EXCERPT_CHARS else f"{text[: _EXCERPT_CHARS - 1]}…"
    return f"{what} of {source.path} {excerpt!r} is left out"


CHECK = RowCheck((CONTENT_LOST, OLD_THOUGHTS), _run)
