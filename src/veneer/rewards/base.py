"""The input of a reward, and its possible results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

Said = str | Sequence[Mapping[str, Any]]
"""Text, or the turns of a conversation."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AnswerToJudge:
    """A sampled answer, with the row that it belongs to."""

    where: str
    """File and line of the row."""
    number: int = 0
    """The number of this answer among those to its prompt, from 0."""
    prompt: Said
    """The prompt of the row: text, or turns."""
    text: str
    """The answer, without the token that ends it."""
    tokens: tuple[int, ...] = ()
    """The answer's tokens, including the one that ends it."""
    columns: Mapping[str, Any] = field(default_factory=dict)
    """The other columns of the row."""
    tools: tuple[dict[str, Any], ...] | None = None
    """Descriptions of the tools that the row's template shows."""

    @property
    def completion(self) -> Said:
        """The answer in the form of the prompt: text, or the assistant's turn."""
        return self.text if isinstance(self.prompt, str) else [{"role": "assistant", "content": self.text}]

    @property
    def question(self) -> str:
        """The last message of the user."""
        if isinstance(self.prompt, str):
            return self.prompt
        return next((str(turn.get("content")) for turn in reversed(self.prompt) if turn.get("role") == "user"), "")


class RewardFailed(Exception):
    """A reward gave no values for the answers in a call; the message says why."""


class RewardsStopped(Exception):
    """A signal asked the program to stop while a reward was running."""


class AnswerReward(Protocol):
    """Something that judges answers."""

    def refusals(self, rows: Sequence[Mapping[str, Any]]) -> Sequence[str | None]:
        """Why it cannot judge any answer to a row, for each row; None for a row whose answers it can judge.

        Args:
            rows: the columns of each row of the run.
        """
        ...

    def values(self, answers: Sequence[AnswerToJudge]) -> list[float | None]:
        """A finite number for each answer, or None if it does not score the answer.

        Raises:
            RewardFailed: it raised an error, ended, took too long, or returned something else.
            RewardsStopped: a signal came.
        """
        ...

    def close(self) -> None:
        """End what it has started."""
        ...
