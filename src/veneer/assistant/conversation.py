"""Talking with a model, here or on a server."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from veneer.arguments import check_type
from veneer.data.forms.turns import Message
from veneer.errors import DataError
from veneer.events import Subscriber
from veneer.generation.sampling import Sampling


class Answering(Protocol):
    """Gives the next turn of a conversation: a model here (`Assistant`) or on a server."""

    def stream(
        self,
        messages: Sequence[Message],
        sampling: Sampling,
        on_text: Callable[[str], None],
        *,
        subscribers: Sequence[Subscriber] = (),
    ) -> str:
        """The assistant's next turn; `on_text` gets it piece by piece, and `subscribers` get notes on it."""
        ...


@dataclass(slots=True)
class Conversation:
    """A conversation with an assistant, with its history."""

    assistant: Answering
    system: str | None = None
    """The system message that it begins with."""
    sampling: Sampling = field(default_factory=Sampling)
    """The length of the answers, and how tokens are chosen."""
    messages: list[Message] = field(init=False)
    """The messages so far, including the system message."""

    def __post_init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Forget what was said."""
        self.messages = [] if self.system is None else [{"role": "system", "content": self.system}]

    def say(
        self,
        text: str,
        on_text: Callable[[str], None] = lambda text: None,
        *,
        subscribers: Sequence[Subscriber] = (),
    ) -> str:
        """Say something.

        Args:
            text: the user's message.
            on_text: called with the answer piece by piece, as it comes.
            subscribers: called with notes on the answer: that the model's context has cut it.

        Returns:
            The answer.

        Raises:
            ConfigError: the message is not text.
            DataError: the message is empty, or the chat template refuses it; it is not remembered.
        """
        check_type("text", text, str)
        if not text:
            raise DataError("there is nothing to answer, the message is empty; say something")
        asked: list[Message] = [*self.messages, {"role": "user", "content": text}]
        answer = self.assistant.stream(asked, self.sampling, on_text, subscribers=subscribers)
        self.messages = [*asked, {"role": "assistant", "content": answer}]
        return answer
