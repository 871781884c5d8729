"""Questions for a model: as text or as turns, with a system message or without."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from veneer.arguments import check_type
from veneer.data.forms.turns import SAME_ROLE, TEXT_PARTS, Message, message_problem
from veneer.errors import ConfigError, DataError, listing


def turns(system: str | None, prompt: str) -> list[Message]:
    """A conversation of one question, with a system turn if there is one."""
    return under(system, [{"role": "user", "content": prompt}])


def under(system: str | None, messages: Sequence[Message]) -> list[Message]:
    """A conversation after a system turn, if one is given; a conversation that has one keeps its own."""
    own = any(SAME_ROLE.get(message["role"]) == "system" for message in messages)
    first: list[Message] = [] if system is None or own else [{"role": "system", "content": system}]
    return [*first, *messages]


def read_prompts(given: Iterable[str | Sequence[Message]], system: str | None) -> list[list[Message]]:
    """The conversations of questions and conversations, whose content may be a list of text parts, as in rows; the
    parts are joined.

    Args:
        given: questions, and lists of messages.
        system: a system message, for conversations that have none.

    Raises:
        ConfigError: the prompts are something else.
        DataError: some ask nothing, or have invalid messages; all of them are named.
    """
    prompts = list(given)
    if prompts and all(isinstance(one, Mapping) for one in prompts):
        raise ConfigError(
            "prompts: these are the messages of one conversation; give a list of conversations: [[{…}, …]]"
        )
    check_type("prompts", prompts, list[str | Sequence[Message]])
    read = [one if isinstance(one, str) else [_joined(message) for message in one] for one in prompts]
    _check(read)
    return [turns(system, one) if isinstance(one, str) else under(system, one) for one in read]


def _joined(message: Message) -> Message:
    content = message.get("content")
    if not isinstance(content, list) or not all(map(_is_text, content)):
        return message
    return {**message, "content": "".join(part["text"] for part in content)}


def _is_text(part: object) -> bool:
    return isinstance(part, dict) and part.get("type", "text") in TEXT_PARTS and isinstance(part.get("text"), str)


def _check(prompts: Sequence[str | Sequence[Message]]) -> None:
    """Refuse questions and conversations that ask nothing, or that have invalid messages."""
    empty = [f"prompt {number}" for number, one in enumerate(prompts, start=1) if not one or _asks_nothing(one)]
    if empty:
        raise DataError(f"there is nothing to answer, the prompts are empty:\n{listing(empty)}")
    problems = [
        f"prompt {number}, message {place}: {problem}"
        for number, one in enumerate(prompts, start=1)
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
