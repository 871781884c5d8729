"""A parsed row of a data file to a record.

Formats are told apart by the keys of a row; the first line of this table that fits decides, and further keys are
ignored::

    messages                        chat: [{"role": ..., "content": ...}, ...], optional row key "tools"
    conversations                   ShareGPT: [{"from": ..., "value": ...}, ...], optional "system" and "tools"
    prompt + completion             two strings, or two lists of messages of which only the second trains
    instruction (+ input) + output  Alpaca, optional "system"
    text                            plain text, every token trains

Rules for a conversation: it holds at least one assistant turn; consecutive turns of one role and turns after the last
assistant turn are allowed (what follows the last assistant turn is read by the model but never trained); a key whose
value is null counts as absent.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from veneer.errors import nearest

Message = dict[str, Any]
"""One turn: "role" and "content", and whatever else the file says ("tool_calls", "name", "reasoning_content", ...)."""

ROLES = ("system", "user", "assistant", "tool")
SHAREGPT_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "chatgpt": "assistant",
    "system": "system",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
}
FORMATS = "messages | conversations | prompt + completion | instruction (+ input) + output | text"


@dataclass(frozen=True, slots=True)
class Record:
    """One row of a data file: either a conversation (`messages`) or a plain text (`text`)."""

    where: str
    """File and line ("train.jsonl:12"); for JSON and Parquet the number of the row, from 1."""
    messages: tuple[Message, ...] = ()
    """The conversation, oldest turn first; empty where the row is plain text."""
    tools: tuple[dict[str, Any], ...] | None = None
    """Descriptions of the tools that the conversation may call."""
    text: str | None = None
    """A plain text, all of which trains."""
    prompt: str | None = None
    """For a model without a chat template: what comes before `completion`; set for prompt/completion and Alpaca."""
    completion: str | None = None
    """For a model without a chat template: what is trained after `prompt`. In an Alpaca row it begins with the blank
    line that separates it from the instruction."""
    train_from: int = 0
    """Assistant turns before this index of `messages` are context only (the prompt of a prompt/completion row)."""


class BadRow(Exception):
    """Why one row cannot be used; caught where rows are collected."""


def to_record(row: Any, where: str) -> Record:
    """The record that a row says, whatever its format.

    Raises:
        BadRow: it says none, or breaks its format.
    """
    if not isinstance(row, dict):
        raise BadRow(f"a row must be an object, not {kind(row)}")
    row = {key: value for key, value in row.items() if value is not None}
    tools = _tools(row.get("tools"))
    if "messages" in row:
        messages = _messages(row["messages"], "messages")
        return _conversation(where, messages, tools)
    if "conversations" in row:
        messages = _system(row) + _sharegpt(row["conversations"])
        return _conversation(where, messages, tools)
    if "prompt" in row or "completion" in row:
        return _prompt_completion(row, where, tools)
    if "instruction" in row or "output" in row:
        return _alpaca(row, where)
    if "text" in row:
        if not _string(row, "text"):
            raise BadRow("text is empty")
        return Record(where, text=row["text"])
    keys = ", ".join(repr(str(key)) for key in row) or "none"
    raise BadRow(f"no format is known for the keys {keys}; known: {FORMATS}")


def _conversation(
    where: str, messages: list[Message], tools: tuple[dict[str, Any], ...] | None, train_from: int = 0
) -> Record:
    if not messages:
        raise BadRow("the conversation is empty")
    if all(message["role"] != "assistant" for message in messages[train_from:]):
        raise BadRow("there is no assistant turn, so nothing to train")
    return Record(where, tuple(messages), tools, train_from=train_from)


def _messages(value: Any, key: str) -> list[Message]:
    if not isinstance(value, list):
        raise BadRow(f"{key} must be a list of turns, not {kind(value)}")
    return [_message(item, f"{key}[{index}]") for index, item in enumerate(value)]


def _message(item: Any, at: str) -> Message:
    if not isinstance(item, dict):
        raise BadRow(f"{at} must be an object, not {kind(item)}")
    # Parquet fills absent fields with null; templates would print it as "None".
    message = {key: value for key, value in item.items() if value is not None}
    role = message.get("role")
    if not isinstance(role, str) or role not in ROLES:
        hint = nearest(role, ROLES) if isinstance(role, str) else ""
        raise BadRow(f"{at} has the role {role!r}; known: {', '.join(ROLES)}{hint}")
    calls = message.get("tool_calls")
    if calls is not None and not (isinstance(calls, list) and all(isinstance(call, dict) for call in calls)):
        raise BadRow(f"{at}.tool_calls must be a list of objects, not {kind(calls)}")
    for key in ("name", "tool_call_id", "reasoning_content"):
        if key in message:
            _string(message, key, at)
    if role == "assistant" and not message.get("content"):
        if not calls:
            raise BadRow(f"{at} is an assistant turn without content or tool calls")
        message.setdefault("content", "")
    _string(message, "content", at)
    return message


def _sharegpt(value: Any) -> list[Message]:
    if not isinstance(value, list):
        raise BadRow(f"conversations must be a list of turns, not {kind(value)}")
    turns = []
    for index, item in enumerate(value):
        at = f"conversations[{index}]"
        if not isinstance(item, dict):
            raise BadRow(f"{at} must be an object, not {kind(item)}")
        if "from" not in item and "role" in item:
            turns.append(_message(item, at))
            continue
        speaker = item.get("from")
        role = SHAREGPT_ROLES.get(speaker) if isinstance(speaker, str) else None
        if role is None:
            raise BadRow(f"{at} is from {speaker!r}; known: {', '.join(SHAREGPT_ROLES)}")
        if "value" not in item:
            raise BadRow(f"{at} has no value")
        content = _string(item, "value", at)
        if role == "assistant" and not content:
            raise BadRow(f"{at} is an assistant turn without content")
        turns.append({"role": role, "content": content})
    return turns


def _prompt_completion(row: dict[str, Any], where: str, tools: tuple[dict[str, Any], ...] | None) -> Record:
    for key, other in (("prompt", "completion"), ("completion", "prompt")):
        if key not in row:
            raise BadRow(f"there is {_a(other)} {other} but no {key}")
    prompt, completion = row["prompt"], row["completion"]
    if isinstance(prompt, list) and isinstance(completion, list):
        context = _messages(prompt, "prompt")
        return _conversation(where, context + _messages(completion, "completion"), tools, train_from=len(context))
    if not (isinstance(prompt, str) and isinstance(completion, str)):
        raise BadRow(
            "prompt and completion must be two strings or two lists of turns, "
            f"not {kind(prompt)} and {kind(completion)}"
        )
    if not completion:
        raise BadRow("completion is empty, so nothing to train")
    messages = ({"role": "user", "content": prompt}, {"role": "assistant", "content": completion})
    return Record(where, messages, tools, prompt=prompt, completion=completion)


def _alpaca(row: dict[str, Any], where: str) -> Record:
    for key, other in (("instruction", "output"), ("output", "instruction")):
        if key not in row:
            raise BadRow(f"there is {_a(other)} {other} but no {key}")
    instruction, output = _string(row, "instruction"), _string(row, "output")
    extra = _string(row, "input") if "input" in row else ""
    if not output:
        raise BadRow("output is empty, so nothing to train")
    system = _system(row)
    question = f"{instruction}\n\n{extra}" if extra else instruction
    messages = [*system, {"role": "user", "content": question}, {"role": "assistant", "content": output}]
    prompt = "\n\n".join([*(turn["content"] for turn in system), question])
    return Record(where, tuple(messages), prompt=prompt, completion=f"\n\n{output}")


def _system(row: dict[str, Any]) -> list[Message]:
    """The system turn of a row that keeps it apart from its turns, if it has one."""
    content = _string(row, "system") if "system" in row else ""
    return [{"role": "system", "content": content}] if content else []


def _tools(value: Any) -> tuple[dict[str, Any], ...] | None:
    if isinstance(value, str):  # ShareGPT files keep the list as a JSON string
        try:
            value = json.loads(value) if value.strip() else None
        except (ValueError, RecursionError) as error:
            raise BadRow(f"tools is not JSON: {error}") from error
    if value is None:
        return None
    if not (isinstance(value, list) and all(isinstance(tool, dict) for tool in value)):
        raise BadRow(f"tools must be a list of objects, not {kind(value)}")
    return tuple(value) or None


def _string(row: Mapping[str, Any], key: str, at: str = "") -> str:
    name = f"{at}.{key}" if at else key
    if key not in row:
        raise BadRow(f"{at or 'the row'} has no {key}")
    value = row[key]
    if not isinstance(value, str):
        raise BadRow(f"{name} must be a string, not {kind(value)}")
    return value


def kind(value: Any) -> str:
    """What a value is, in the words of an error message."""
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", int: "a number"}
    return names.get(type(value), "null" if value is None else f"a {type(value).__name__}")


def _a(noun: str) -> str:
    return "an" if noun[0] in "aeiou" else "a"
