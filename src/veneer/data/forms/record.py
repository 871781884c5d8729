"""A row of a data file, of any form, as a conversation or a plain text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from veneer.data.forms.turns import Message


@dataclass(frozen=True, slots=True)
class Record:
    """One row of a data file: either a conversation (`messages`) or a plain text (`text`)."""

    where: str
    """The file and line ("train.jsonl:12"); for JSON and Parquet the number of the row, from 1."""
    messages: tuple[Message, ...] = ()
    """The conversation, oldest turn first; empty if the row is plain text."""
    tools: tuple[dict[str, Any], ...] | None = None
    """Descriptions of the tools that the conversation may call."""
    text: str | None = None
    """A plain text, all of which is trained."""
    prompt: str | None = None
    """For a model without a chat template: the text before `completion`; set for prompt/completion and Alpaca."""
    completion: str | None = None
    """For a model without a chat template: the text that is trained after `prompt`. In an Alpaca row it begins with the
    blank line that separates it from the instruction."""
    untrained: tuple[int, ...] = ()
    """Indices in `messages` of the assistant turns that are context only, in ascending order: those in the prompt of a
    prompt/completion row, and those with a mark in the file (`weight: 0`, `train: false`)."""

    @property
    def characters(self) -> int:
        """The number of characters of its contents."""
        return len(self.text or "") + sum(len(message["content"]) for message in self.messages)

    @property
    def trained_turns(self) -> tuple[int, ...]:
        """Indices in `messages` of the assistant turns that are trained, in ascending order."""
        return tuple(
            index
            for index, message in enumerate(self.messages)
            if message["role"] == "assistant" and index not in self.untrained
        )
