"""What goes to the process that renders templates and comes back from it is what was sent, whatever it holds."""

from __future__ import annotations

import datetime
import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from veneer.data.templates import render_wire as wire
from veneer.data.templates.escape import GuardedChat

TEXT = st.text(st.characters(), max_size=20)  # lone halves of characters too
VALUE = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)
MESSAGES = st.lists(st.dictionaries(TEXT, TEXT | VALUE, max_size=3), max_size=3)
SPANS = st.lists(st.tuples(st.integers(0, 10**9), st.integers(0, 10**9)), max_size=3)


def body(frame: bytes) -> bytes:
    (length,) = wire.FRAME_LENGTH.unpack_from(frame)
    assert len(frame) == wire.FRAME_LENGTH.size + length
    return frame[wire.FRAME_LENGTH.size :]


def arrived(messages: list[dict[Any, Any]], tools: list[dict[str, Any]] | None = None) -> tuple[Any, int]:
    """One conversation as the process gets it, and its size."""
    chat = GuardedChat(tuple(messages), None if tools is None else tuple(tools), changed=False)
    verb, (packed,) = wire.read_request(body(wire.find_request([(chat, (1, 3))])))
    assert verb == wire.FIND
    (got, got_tools, untrained), size = wire.unpacked(packed)
    assert list(untrained) == [1, 3]
    return (list(got), got_tools), size


@settings(max_examples=50, deadline=None)
@given(MESSAGES, st.none() | MESSAGES)
def test_a_conversation_arrives_as_json_would_bring_it(messages: Any, tools: Any) -> None:
    (got, got_tools), size = arrived(messages, tools)
    expected = json.loads(json.dumps([messages, tools]))
    assert [got, got_tools] == expected
    assert [list(message) for message in got] == [list(message) for message in expected[0]]  # templates see the order
    assert size >= sum(len(text) for message in messages for text in message.values() if isinstance(text, str))


def test_what_json_lacks_arrives_as_text_or_as_jsons_own() -> None:
    day = datetime.date(2024, 2, 29)
    (got, _), _ = arrived([{"content": day, "pair": ("a", b"b"), 7: "key", "real": "text"}])
    assert got == [{"content": "2024-02-29", "pair": ["a", "b'b'"], "7": "key", "real": "text"}]
    (got, _), _ = arrived([{7: "key"}])
    assert got == [{"7": "key"}]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(TEXT, SPANS) | TEXT, max_size=4))
def test_answers_arrive_in_order_each_with_its_own_text(found: list[Any]) -> None:
    assert wire.read_answer(body(wire.find_answer(found))) == found


@settings(max_examples=20, deadline=None)
@given(st.dictionaries(TEXT, VALUE, max_size=3))
def test_an_object_arrives_as_it_was_sent(values: dict[str, Any]) -> None:
    assert wire.read_answer(body(wire.answer(values))) == values
