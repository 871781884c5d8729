"""Conversations whose turns are out of order, empty, or have keys that nothing reads."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from veneer.data.forms.turns import MARK_KEYS, REASONING_KEYS
from veneer.data.lint.row import LintSetting, Row, raw_turns
from veneer.data.lint.rules import Cost, Finding, LintRule, RowCheck, Severity

EMPTY_TURN = LintRule(
    "empty-turn",
    Severity.ERROR,
    Cost.TEXT,
    "contain an empty turn: nothing, white space, or invisible characters",
    "remove the turn or the row",
)
TURN_ORDER = LintRule(
    "turn-order",
    Severity.WARNING,
    Cost.TEXT,
    "have turns in an order that models do not expect",
    "join turns of one speaker, begin with a question (after the system turn), and end with the assistant's answer",
)
UNKNOWN_KEYS = LintRule(
    "unknown-keys",
    Severity.INFO,
    Cost.TEXT,
    "have keys in a turn that no known chat template reads",
    "rename them if they were meant for the model",
)
_INVISIBLE = re.compile(
    "[\\s\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff]*"
)
_KEYS = frozenset(
    {
        *("role", "content", "name", "tool_calls", "function_call", "tool_call_id", "tools", "from", "value"),
        *("id", "refusal", *REASONING_KEYS, *MARK_KEYS),
    }
)


def says_nothing(text: str) -> bool:
    """Whether a text has no visible character."""
    return _INVISIBLE.fullmatch(text) is not None


def _run(row: Row, setting: LintSetting) -> Iterator[Finding]:
    record = row.record
    if record is None:
        return
    if record.text is not None:
        if says_nothing(record.text):
            yield EMPTY_TURN.found("text has no visible character")
        return
    for index, message in enumerate(record.messages):
        content = message.get("content")
        silent = not isinstance(content, str) or says_nothing(content)
        # A prompt may be left out on purpose, as in unconditional generation.
        if silent and not message.get("tool_calls") and message["role"] != "tool" and record.prompt is None:
            yield EMPTY_TURN.found(f"messages[{index}] ({message['role']}): {content!r}")
        elif silent and message["role"] == "assistant" and not message.get("tool_calls"):
            yield EMPTY_TURN.found(f"the completion has no visible character: {content!r}")
    problem = _order([message["role"] for message in record.messages], record.messages, asks=row.asked is not None)
    if problem is not None:
        yield TURN_ORDER.found(problem)
    unknown = sorted({key for _, turn in raw_turns(row.raw) for key in turn if key not in _KEYS})
    if unknown:
        yield UNKNOWN_KEYS.found(", ".join(repr(key) for key in unknown[:5]))


def _order(roles: list[str], messages: tuple[dict[str, Any], ...], *, asks: bool) -> str | None:
    if "system" in roles[1:]:
        return f"turn {roles.index('system', 1) + 1} is the system's, which must come first"
    if roles[0] == "system":
        roles, messages = roles[1:], messages[1:]
    if roles and roles[0] != "user":
        return f"the conversation begins with the {roles[0]}'s turn"
    for index in range(1, len(roles)):
        before, role = roles[index - 1], roles[index]
        if role == before and role in ("user", "assistant"):
            return f"two {role} turns follow each other"
        if role == "tool" and before not in ("assistant", "tool"):
            return f"a tool answers a {before} turn, which makes no call"
        if role == "tool" and before == "assistant" and not messages[index - 1].get("tool_calls"):
            return "a tool answers a turn that calls no tool"
    if roles and roles[-1] != "assistant" and not asks:
        return f"the conversation ends with the {roles[-1]}'s turn, which is never trained"
    return None


CHECK = RowCheck((EMPTY_TURN, TURN_ORDER, UNKNOWN_KEYS), _run)
