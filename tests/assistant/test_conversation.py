"""A conversation remembers what was answered, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from veneer.assistant.conversation import Conversation
from veneer.data.forms.turns import Message
from veneer.errors import ConfigError, DataError
from veneer.events import Subscriber
from veneer.generation.sampling import Sampling


class Counting:
    """Answers with the number of messages, and refuses to say a word of one text."""

    def stream(
        self,
        messages: Sequence[Message],
        sampling: Sampling,
        on_text: Callable[[str], None],
        *,
        subscribers: Sequence[Subscriber] = (),
    ) -> str:
        if messages[-1]["content"] == "refuse":
            raise DataError("the chat template refuses it")
        on_text(str(len(messages)))
        return str(len(messages))


def test_what_was_said_is_remembered_until_the_conversation_begins_anew() -> None:
    talk, heard = Conversation(Counting(), "Be brief."), list[str]()
    assert (talk.say("Where?", heard.append), talk.say("When?", heard.append)) == ("2", "4")
    assert heard == ["2", "4"]
    assert [one["content"] for one in talk.messages] == ["Be brief.", "Where?", "2", "When?", "4"]
    talk.restart()
    assert talk.messages == [{"role": "system", "content": "Be brief."}]


def test_what_is_refused_is_not_remembered() -> None:
    talk = Conversation(Counting())
    with pytest.raises(DataError, match="refuses"):
        talk.say("refuse")
    with pytest.raises(DataError, match="empty"):
        talk.say("")
    with pytest.raises(ConfigError, match="text"):
        talk.say(3)  # type: ignore[arg-type]
    assert talk.messages == []
    assert talk.say("Where?") == "1"
