"""Questions that are given to a model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from veneer.arguments import check_type
from veneer.data.turns import SAME_ROLE, TEXT_PARTS, Message, message_problem
from veneer.errors import ConfigError, DataError, listing


def turns(system: str | None, prompt: str) -> list[Message]:
    """A conversation of one question, with a system turn if there is one."""
    return under(system, [{"role": "user", "content": prompt}])


def under(system: str | None, messages: Sequence[Message]) -> list[Message]:
    """A conversation behind a system turn, if there is one; a conversation that has one keeps its own."""
    own = any(SAME_ROLE.get(message["role"]) == "system" for message in messages)
    first: list[Message] = [] if system is None or own else [{"role": "system", "content": system}]
    return [*first, *messages]


def read_prompts(given: Iterable[str | Sequence[Message]]) -> list[str | Sequence[Message]]:
    """Questions and conversations, in which a content may be a list of text parts, as in rows: these are joined. What
    else a content may be is left to `check_prompts`.

    Raises:
        ConfigError: they are something else.
    """
    prompts = list(given)
    if prompts and all(isinstance(one, Mapping) for one in prompts):
        raise ConfigError(
            "prompts: these are the messages of one conversation; give a list of conversations: [[{…}, …]]"
        )
    check_type("prompts", prompts, list[str | Sequence[Message]])
    return [one if isinstance(one, str) else [_joined(message) for message in one] for one in prompts]


def _joined(message: Message) -> Message:
    content = message.get("content")
    if not isinstance(content, list) or not all(map(_is_text, content)):
        return message
    return {**message, "content": "".join(part["text"] for part in content)}


def _is_text(part: object) -> bool:
    return isinstance(part, dict) and part.get("type", "text") in TEXT_PARTS and isinstance(part.get("text"), str)


def check_prompts(prompts: Sequence[str | Sequence[Message]]) -> None:
    """Refuse questions and conversations that ask nothing, or that have messages which are none, before a model is
    opened.

    Raises:
        DataError: all of them are named.
    """
    empty = [f"prompt {number}" for number, one in enumerate(prompts) if not one or _asks_nothing(one)]
    if empty:
        raise DataError(f"there is nothing to answer, the prompts are empty:\n{listing(empty)}")
    problems = [
        f"prompt {number}, message {place}: {problem}"
        for number, one in enumerate(prompts)
        if not isinstance(one, str)
        for place, message in enumerate(one, start=1)
        if (problem := message_problem(message)) is not None
    ]
    if problems:
        raise DataError(f'a message is {{"role": "user", "content": "..."}}; these are none:\n{listing(problems)}')


def _asks_nothing(prompt: str | Sequence[Message]) -> bool:
    """Whether a conversation ends with an empty question."""
    last = {} if isinstance(prompt, str) else prompt[-1]
    return last.get("role") == "user" and last.get("content") == ""


def lines_of(path: Path) -> Iterator[str]:
    """Prompts of a text file, one a line; empty lines are passed over."""
    # utf-8-sig: a byte-order mark is no part of the first prompt. Not splitlines(), which splits on rarer characters.
    for line in path.read_text(encoding="utf-8-sig").split("\n"):
        if line.strip():
            yield line
