"""The turns of a conversation in data files: roles, contents, tool calls, and marks of what is trained.

Two spellings are read: OpenAI's (`role`, `content`) and ShareGPT's (`from`, `value`). Both become messages in the form
of chat templates. A turn may say whether it is trained: `weight` (0 or 1, OpenAI), `train` or `training` (Axolotl),
`loss` (ms-swift). The mark is removed from the message and applied in the loss mask.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from sys import intern
from typing import Any

from veneer.data.files.json_values import BadRow, kind, parse_json
from veneer.errors import DataError, nearest

Message = dict[str, Any]
"""One turn: "role" and "content", and further keys of the file ("tool_calls", "name", "reasoning_content", ...)."""

ROLES = ("system", "user", "assistant", "tool")
SAME_ROLE = {role: role for role in ROLES} | {"developer": "system", "function": "tool"}
"""Maps the role in a file to the role of templates. OpenAI's `developer` is the system turn of its newer models, and
`function` the output of a tool in its older ones."""
SHAREGPT_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "function_call": "assistant",
    "system": "system",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
}
MARK_KEYS = ("weight", "train", "training", "loss")
"""Keys of a turn that say whether it is trained."""
REASONING_KEYS = ("reasoning_content", "thinking", "reasoning")
"""Names of a turn's thoughts in data files; templates read the first two."""
PART_MARK_KEYS = ("train_detail",)
"""Keys of a turn that mark only some of its characters (Axolotl)."""
_ALL_MARK_KEYS = frozenset((*MARK_KEYS, *PART_MARK_KEYS))
TEXT_PARTS = ("text", "input_text", "output_text")
_WRITTEN = re.compile(r"""\s*\[\s*\{\s*(["'])(role|from|content|value)\1\s*:.*\]\s*""", re.DOTALL)
"""A list of turns that was converted to a text, as pandas does in CSV files."""
_SPEAKER = re.compile(r"""(["'])(role|from)\1\s*:""")
NO_TEMPLATE = (
    "the model has no chat template, so a conversation cannot be written for it; use an instruction-tuned model, or "
    "rows with prompt and completion strings, or with text"
)


@dataclass(slots=True)
class Turns:
    """The turns of one conversation."""

    messages: tuple[Message, ...] = ()
    untrained: tuple[int, ...] = ()
    """Indices of the assistant turns that the file marks as context only."""
    marked: bool = False
    """Whether the file marks a turn as trained that is not the assistant's."""
    unused: frozenset[str] = frozenset()
    """Keys of ShareGPT turns that nothing reads."""

    def __add__(self, other: Turns) -> Turns:
        """These turns, followed by others."""
        return Turns(
            self.messages + other.messages,
            self.untrained + tuple(index + len(self.messages) for index in other.untrained),
            self.marked or other.marked,
            self.unused | other.unused,
        )

    def as_context(self) -> Turns:
        """These turns with none of them trained."""
        indices = [index for index, message in enumerate(self.messages) if message["role"] == "assistant"]
        return Turns(self.messages, tuple(indices), self.marked, self.unused)


def without_template(messages: Sequence[Message]) -> str:
    """The text of turns that ask, for a model without a chat template: their contents, joined by blank lines.

    Raises:
        DataError: a turn has no role or no text, or is one that only a chat template can write.
    """
    for number, message in enumerate(messages):
        missing = [key for key in ("role", "content") if not isinstance(message.get(key), str)]
        if message.get("role") not in ("system", "user") and "role" not in missing:
            raise DataError(NO_TEMPLATE)
        if missing:
            raise DataError(
                f"messages[{number}] has no {missing[0]} that is a text; a message is "
                '{"role": "user", "content": "..."}'
            )
    return "\n\n".join(message["content"] for message in messages)


def message_problem(message: Mapping[str, Any]) -> str | None:
    """Why a message of a prompt is invalid; None if it is valid.

    A turn of the assistant may have tool calls or thoughts instead of a content.
    """
    spoken = ("tool_calls", *REASONING_KEYS)
    silent = message.get("role") == "assistant" and any(message.get(key) for key in spoken)
    for key in ("role", "content"):
        value = message.get(key)
        if isinstance(value, str) or (key == "content" and value is None and silent):
            continue
        if value is not None:
            return f"its {key} must be a text, got {reprlib.repr(value)}"
        known = ("role", "content", *spoken, "name", "tool_call_id")
        others = [f"{name!r}{nearest(str(name), known)}" for name in message if name not in known]
        return f"it has no {key} that is a text" + (f"; it has {', '.join(others)}" if others else "")
    return None


def check_messages(messages: Sequence[Message]) -> None:
    """Refuse invalid messages for a chat template, which would write a message without a role or text nevertheless.

    Raises:
        DataError: a message is invalid; the first one is named.
    """
    for number, message in enumerate(messages, start=1):
        problem = message_problem(message)
        if problem is not None:
            raise DataError(f"message {number}: {problem}")


def read_turns(value: Any, key: str) -> Turns:
    """Read a list of turns; each may be written in either spelling.

    Raises:
        BadRow: the value is not a list, or one of its turns breaks a rule.
    """
    if not isinstance(value, list):
        raise BadRow(f"{key} must be a list of turns, not {kind(value)}")
    messages: list[Message] = []
    untrained: list[int] = []
    unused: set[str] = set()
    marked = False
    for index, item in enumerate(value):
        at = f"{key}[{index}]"
        if not isinstance(item, dict):
            raise BadRow(f"{at} must be an object, not {kind(item)}")
        # Parquet fills absent fields with null; templates would print it as "None". Interned keys are held once.
        turn = {intern(name): content for name, content in item.items() if content is not None}
        trains = _mark(turn, at)
        if "role" not in turn and ("from" in turn or "value" in turn):
            message, left = _sharegpt(turn, at)
            unused.update(f"{key}[].{name}" for name in left)
        else:
            message = _message(turn, at)
        messages.append(message)
        if message["role"] == "assistant":
            if trains is False:
                untrained.append(index)
        else:
            marked = marked or trains is True
    return Turns(tuple(messages), tuple(untrained), marked, frozenset(unused))


OTHER_SYSTEM = "the turns begin with another system turn than 'system' says; leave one of the two out"


def system_turn(content: str) -> Turns:
    """The system turn of a row that has it outside of its turns; no turn if it is empty."""
    return Turns(({"role": "system", "content": content},)) if content else Turns()


def string(row: Mapping[str, Any], key: str, at: str = "") -> str:
    """A string of a row or turn.

    Raises:
        BadRow: the string is missing, or not a string.
    """
    name = f"{at}.{key}" if at else key
    if key not in row:
        raise BadRow(f"{at or 'the row'} has no {key}")
    value = row[key]
    if not isinstance(value, str):
        raise BadRow(f"{name} must be a string, not {kind(value)}")
    return value


def _mark(turn: dict[str, Any], at: str) -> bool | None:
    """Remove the marks from a turn; returns their value, or None if there are none."""
    if _ALL_MARK_KEYS.isdisjoint(turn):
        return None
    for name in PART_MARK_KEYS:
        if turn.pop(name, None):
            raise BadRow(
                f"{at}.{name} marks parts of a turn, which veneer cannot train separately; remove it or mark the turn"
            )
    found = {name: turn.pop(name) for name in MARK_KEYS if name in turn}
    if not found:
        return None
    for name, value in found.items():
        if not isinstance(value, (bool, int, float)) or value not in (0, 1):
            raise BadRow(f"{at}.{name} is {value!r}; a turn is trained (1 or true) or it is not (0 or false)")
    if len({bool(value) for value in found.values()}) > 1:
        raise BadRow(f"{at} says both that it is trained and that it is not: {', '.join(found)}; keep one of them")
    return all(found.values())


def _message(message: Message, at: str) -> Message:
    role = message.get("role")
    known = SAME_ROLE.get(role) if isinstance(role, str) else None
    if known is None:
        hint = nearest(role, tuple(SAME_ROLE)) if isinstance(role, str) else ""
        raise BadRow(f"{at} has the role {role!r}; known: {', '.join(SAME_ROLE)}{hint}")
    message["role"] = known
    if "function_call" in message:
        message["tool_calls"] = _old_call(message, at)
    calls = message.get("tool_calls")
    if calls is not None and not (isinstance(calls, list) and all(isinstance(call, dict) for call in calls)):
        raise BadRow(f"{at}.tool_calls must be a list of objects, not {kind(calls)}")
    if "content" not in message and known == "assistant":
        if not calls and not any(key in message for key in REASONING_KEYS):
            raise BadRow(f"{at} is an assistant turn without content or tool calls")
        message["content"] = ""
    if not isinstance(message.get("content"), str):
        if isinstance(message.get("content"), list):
            message["content"] = _joined(message["content"], f"{at}.content")
        string(message, "content", at)
    if len(message) > 2:
        for key in ("name", "tool_call_id", *REASONING_KEYS):
            if key in message:
                string(message, key, at)
    return message


def _old_call(message: Message, at: str) -> list[dict[str, Any]]:
    """Remove the call in OpenAI's older spelling, which no template reads, from a turn; return it as a list."""
    call = message.pop("function_call")
    if message.get("tool_calls"):
        raise BadRow(f"{at} has both tool_calls and function_call; keep one of them")
    if not (isinstance(call, dict) and isinstance(call.get("name"), str)):
        raise BadRow(f'{at}.function_call must be {{"name": ..., "arguments": ...}}, not {kind(call)}')
    return [_made_call(call)]


def _made_call(call: Mapping[str, Any]) -> dict[str, Any]:
    """A call in the form of templates; a function without arguments gets empty ones."""
    found = [call[key] for key in ("arguments", "parameters") if call.get(key) is not None]
    return {"type": "function", "function": {"name": call["name"], "arguments": found[0] if found else {}}}


def _joined(parts: list[Any], at: str) -> str:
    """The text of a content that is a list of text parts."""
    texts = []
    for index, part in enumerate(parts):
        if not isinstance(part, dict):
            raise BadRow(f"{at} must be a string or a list of text parts; its item {index} is {kind(part)}")
        form = part.get("type", "text")
        if form not in TEXT_PARTS:
            raise BadRow(f"{at}[{index}] is of type {form!r}; veneer trains on text parts only")
        texts.append(string(part, "text", f"{at}[{index}]"))
    return "".join(texts)


def _sharegpt(turn: dict[str, Any], at: str) -> tuple[Message, list[str]]:
    """A turn in ShareGPT's spelling as a message, and the keys that are not used."""
    speaker = turn.get("from")
    role = SHAREGPT_ROLES.get(speaker) if isinstance(speaker, str) else None
    if role is None:
        hint = nearest(speaker, tuple(SHAREGPT_ROLES)) if isinstance(speaker, str) else ""
        raise BadRow(f"{at} is from {speaker!r}; known: {', '.join(SHAREGPT_ROLES)}{hint}")
    if "value" not in turn:
        raise BadRow(f"{at} has no value")
    value = string(turn, "value", at)
    left = [key for key in turn if key not in ("from", "value")]
    if speaker == "function_call":
        calls, more = _calls(value, f"{at}.value")
        return {"role": role, "content": "", "tool_calls": calls}, [*left, *more]
    return {"role": role, "content": value}, left


def _calls(text: str, at: str) -> tuple[list[dict[str, Any]], list[str]]:
    """The calls in the value of a `function_call` turn, `{"name": ..., "arguments": ...}` or a list of such, and their
    unused keys. Some files have `parameters` instead of `arguments`, like Llama 3.1."""
    try:
        parsed = parse_json(text)
    except BadRow as problem:
        raise BadRow(f"{at} must be a call as JSON: {problem}") from problem
    calls = parsed if isinstance(parsed, list) else [parsed]
    for call in calls:
        if not (isinstance(call, dict) and isinstance(call.get("name"), str)):
            raise BadRow(f'{at} must be {{"name": ..., "arguments": ...}} or a list of such objects')
    if not calls:
        raise BadRow(f"{at} is an empty list of calls")
    calls = [{key: value for key, value in call.items() if value is not None} for call in calls]
    if any({"arguments", "parameters"} <= call.keys() for call in calls):
        raise BadRow(f"{at} has both arguments and parameters in a call; keep one of them")
    unused = [f"value.{key}" for call in calls for key in call if key not in ("name", "arguments", "parameters")]
    return [_made_call(call) for call in calls], unused


def refuse_written(texts: Mapping[str, Any]) -> None:
    """Refuse lists of turns that were converted to texts, which would be learned as the content of a single turn.

    Args:
        texts: the suspected values, by their names; if one is not such a list, the others are meant as texts.

    Raises:
        BadRow: all values are such lists.
    """
    if all(isinstance(text, str) and _WRITTEN.fullmatch(text) and _SPEAKER.search(text) for text in texts.values()):
        are = "are lists of turns that were" if len(texts) > 1 else "is a list of turns that was"
        written = "as texts" if len(texts) > 1 else "as a text"
        raise BadRow(f"{' and '.join(texts)} {are} written {written}; write the rows as JSON lines")
