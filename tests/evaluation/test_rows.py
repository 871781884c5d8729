from __future__ import annotations

from veneer.data.forms.formats import to_record
from veneer.evaluation.rows import asked_conversation, last_message


def test_a_message_that_is_alone_is_what_was_asked() -> None:
    record = to_record({"prompt": "Which is heavier?", "completion": "The whale."}, "f:1")
    assert asked_conversation(record) == last_message(record) == "Which is heavier?"


def test_a_conversation_is_told_up_to_its_last_answer() -> None:
    turns = [
        {"role": "system", "content": "Answer in French only."},
        {"role": "user", "content": "Which is heavier?"},
        {"role": "assistant", "content": "The whale."},
        {"role": "user", "content": "And the other way round?"},
        {"role": "assistant", "content": "La souris."},
    ]
    assert asked_conversation(to_record({"messages": turns}, "f:1")) == (
        "System: Answer in French only.\n\nUser: Which is heavier?\n\nAssistant: The whale.\n\n"
        "User: And the other way round?"
    )


def test_tools_and_calls_are_part_of_what_was_asked() -> None:
    call = {"type": "function", "function": {"name": "weight", "arguments": {"of": "whale"}}}
    turns = [
        {"role": "user", "content": "How heavy is a whale?"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "100 t"},
        {"role": "assistant", "content": "100 tonnes."},
    ]
    tools = [{"type": "function", "function": {"name": "weight", "parameters": {}}}]
    said = asked_conversation(to_record({"messages": turns, "tools": tools}, "f:1")).split("\n\n")
    assert [one.partition(":")[0] for one in said] == ["Tools", "User", "Assistant", "Tool"]
    assert '"whale"' in said[2]
    assert said[3] == "Tool: 100 t"
