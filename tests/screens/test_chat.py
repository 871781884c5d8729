"""A conversation in the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from click.testing import CliRunner

from veneer.assistant.conversation import Conversation
from veneer.errors import DataError
from veneer.events import Level, Note, Subscriber
from veneer.screens.chat import converse


def test_the_conversation_so_far_is_part_of_the_prompt() -> None:
    asked_with: list[list[str]] = []

    class Listening:
        def stream(self, messages: Sequence[Any], sampling: object, on_text: Any, *, subscribers: Any = ()) -> str:
            asked_with.append([f"{message['role']}: {message['content']}" for message in messages])
            on_text("ok")
            return f"answer {len(asked_with)}"

    runner = CliRunner()
    with runner.isolation(input="one\ntwo\n/new\n/help\nthree\n/quit\nfour\n"):
        converse(Conversation(Listening(), "be brief"))
    assert asked_with == [
        ["system: be brief", "user: one"],
        ["system: be brief", "user: one", "assistant: answer 1", "user: two"],
        ["system: be brief", "user: three"],
    ]


def test_a_message_that_is_refused_is_told_and_forgotten_and_the_conversation_goes_on() -> None:
    class Refusing:
        def stream(self, messages: Sequence[Any], sampling: object, on_text: Any, *, subscribers: Any = ()) -> str:
            said = [message["content"] for message in messages]
            on_text("be")
            if said[-1] == "two":
                raise DataError("the server is busy (429)")
            return " ".join(said)

    conversation = Conversation(Refusing())
    with CliRunner().isolation(input="one\ntwo\nthree\n") as (_, errors, _):
        assert converse(conversation) == 0, "the last message was answered"
        said = errors.getvalue().decode()
    assert "error: the server is busy (429)" in said
    assert "/new" in said.split("busy")[1]
    assert [message["content"] for message in conversation.messages] == ["one", "one", "three", "one one three"]
    with CliRunner().isolation(input="one\ntwo\n"):
        assert converse(conversation) == DataError.exit_code, "so that a script knows"


def test_what_is_said_of_an_answer_stands_below_it() -> None:
    class Cut:
        def stream(
            self, messages: object, sampling: object, on_text: Any, *, subscribers: Sequence[Subscriber] = ()
        ) -> str:
            for tell in subscribers:
                tell(Note(message="the context has cut it", level=Level.WARNING))
            on_text("late")
            return "late"

    with CliRunner().isolation(input="one\n") as (_, _, both):
        converse(Conversation(Cut()))
        assert both.getvalue().decode().endswith("late\nwarning: the context has cut it\n> ")
