"""A conversation in the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from click.testing import CliRunner

from veneer.assistant import Conversation
from veneer.screens.chat import converse


def test_the_conversation_so_far_is_part_of_the_prompt() -> None:
    asked_with: list[list[str]] = []

    class Listening:
        def stream(self, messages: Sequence[Any], sampling: object, on_text: Any) -> str:
            asked_with.append([f"{message['role']}: {message['content']}" for message in messages])
            on_text("ok")
            return f"answer {len(asked_with)}"

    runner = CliRunner()
    with runner.isolation(input="one\ntwo\n/new\nthree\n"):
        converse(Conversation(Listening(), "be brief"))
    assert asked_with == [
        ["system: be brief", "user: one"],
        ["system: be brief", "user: one", "assistant: answer 1", "user: two"],
        ["system: be brief", "user: three"],
    ]
