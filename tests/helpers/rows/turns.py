"""Rows of turns, written briefly."""

from __future__ import annotations

from veneer.data.forms.record import Record


def record(*turns: str | dict, where: str = "f:1", **fields: object) -> Record:
    """Turns as "u:text", "a:text", "s:text", "t:text", or whole messages."""
    roles = {"u": "user", "a": "assistant", "s": "system", "t": "tool"}
    messages = tuple({"role": roles[turn[0]], "content": turn[2:]} if isinstance(turn, str) else turn for turn in turns)
    return Record(where, messages, **fields)
