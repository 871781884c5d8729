"""Tool calls: the tools in a request, and the calls in the text of an answer.

Models write calls in the form that they were trained with. These forms are read:

- `<tool_call>{"name": …, "arguments": {…}}</tool_call>`, any number of them, with text around them (Hermes, Qwen,
  SmolLM). A tag that no JSON follows is text, for example in a thought that mentions the tag.
- An answer that as a whole is `{"name": …, "arguments": {…}}` or a list of such objects, optionally after
  `[TOOL_CALLS]` (Llama, which writes `parameters`; Mistral). Its first key must be one of the keys of a call, because a
  stream must recognise a call before it sends any text.

A forced call has the second form. The client did not ask for that text, so if the answer is cut off within it, it still
counts as a call, with the arguments as far as they came, or as nothing. A call of a tool that the request does not name
is not a call. Calls that cannot be read stay text, as do calls with a number that JSON cannot represent (1e999).
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from veneer.data.files.json_values import BadRow, kind, parse_json, parse_json_at
from veneer.generation.text import overlap
from veneer.http_server.fields import Fields
from veneer.serving.grammar import as_rule
from veneer.text.strict_json import only_finite, to_text

_OPEN, _CLOSE, _MISTRAL = "<tool_call>", "</tool_call>", "[TOOL_CALLS]"
_BEGUN = re.compile(rf"{_OPEN}\s*(?=[{{\[])")
_MAY_BEGIN = re.compile(rf"{_OPEN}(?=\s*(?:[{{\[]|\Z))")
_ENDED = re.compile(rf"\s*(?:{_CLOSE}|\Z)")
_KEYS = ("name", "arguments", "parameters", "type", "id")
_WHOLE = re.compile(rf'\s*(?:{re.escape(_MISTRAL)}\s*)?(?:\[\s*)?{{\s*"(?:{"|".join(_KEYS)})"')
"""The beginning of an answer that may be a call, or a list of calls, as a whole."""
_CUT = re.compile(r'\s*{\s*"name"\s*:\s*"([^"]*)"(?:\s*,\s*"arguments"\s*:\s*(.*))?', re.DOTALL)
"""The beginning of a forced call."""
_WITHOUT_ARGUMENTS = frozenset({"name", "type", "id"})
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,128}")
MOST_TOOLS = 128


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that a model wrote."""

    name: str
    arguments: dict[str, Any]
    cut: str | None = None
    """The arguments as far as they came, if the answer ended within the call."""

    def content(self, index: int) -> dict[str, Any]:
        """The call in OpenAI's form."""
        arguments = to_text(self.arguments, ensure_ascii=False) if self.cut is None else self.cut
        return {
            "index": index,
            "id": f"call_{uuid.uuid4().hex[:24]}",
            "type": "function",
            "function": {"name": self.name, "arguments": arguments},
        }


@dataclass(frozen=True, slots=True)
class ToolUse:
    """The tools of a request, and how an answer may use them."""

    tools: tuple[dict[str, Any], ...] = ()
    """The tools as the request describes them; empty if the answer must not call any."""
    forced: tuple[str, ...] = ()
    """The names of the tools of which one must be called; empty if no call is required."""
    parallel: bool = True
    """Whether an answer may hold more than one call."""

    @property
    def names(self) -> frozenset[str]:
        """The names of the tools."""
        return frozenset(tool["function"]["name"] for tool in self.tools)

    def around_answer(self) -> str | None:
        """The grammar, in Lark's form, of an answer or of calls instead, as `read_calls` reads them; None unless the
        model may call a tool but need not. Arguments may be any object, as without a grammar."""
        if not self.tools or self.forced:
            return None
        call = [
            {
                "type": "object",
                "properties": {"name": {"enum": sorted(self.names)}, arguments: {"type": "object"}},
                "required": ["name", arguments],
                "additionalProperties": False,
            }
            for arguments in ("arguments", "parameters")
        ]
        bare: list[dict[str, Any]] = [*call, {"type": "array", "items": {"anyOf": call}, "minItems": 1}]
        return (
            f"start: answer | bare | tagged{'+' if self.parallel else ''}\n"
            f"bare: {as_rule({'anyOf': bare if self.parallel else call})}\n"
            f'tagged: "{_OPEN}" SPACE call SPACE "{_CLOSE}" SPACE\n'
            f"call: {as_rule({'anyOf': call})}\n"
            "SPACE: /[ \\t\\n]{0,20}/"
        )

    def schema(self) -> dict[str, Any]:
        """The JSON schema of one call of a forced tool."""
        parameters = [tool["function"].get("parameters") or {} for tool in self.tools]
        ids = [schema.get("$id") for schema in parameters]
        return {
            "anyOf": [
                {
                    "type": "object",
                    "properties": {
                        "name": {"const": tool["function"]["name"]},
                        "arguments": _arguments(parameters[number], number, ids),
                    },
                    "required": ["name", "arguments"],
                    "additionalProperties": False,
                }
                for number, tool in enumerate(self.tools)
                if tool["function"]["name"] in self.forced
            ]
        }


def _arguments(parameters: Mapping[str, Any], number: int, ids: Sequence[Any]) -> dict[str, Any]:
    """The schema of a tool's arguments within that of all calls. It gets a unique `$id`, so that its references
    (`#/$defs/…`) stay within itself, as the client meant them; an `$id` that several tools share (`ids`) is replaced.
    Arguments are always an object, whatever the client says."""
    given = parameters.get("$id")
    own = given if given is not None and ids.count(given) == 1 else f"tool:{number}"
    return {**parameters, "$id": own, "type": "object"}


def read_tools(fields: Fields) -> ToolUse:
    """Read `tools`, `tool_choice` and `parallel_tool_calls`.

    Raises:
        ApiError: 400, a tool or the choice breaks a rule.
    """
    given = fields.items("tools") or []
    if len(given) > MOST_TOOLS:
        raise fields.wrong("tools", f"{len(given):,} tools; at most {MOST_TOOLS} are accepted")
    tools = [_tool(fields, tool, number) for number, tool in enumerate(given)]
    names = [tool["function"]["name"] for tool in tools]
    if len(set(names)) < len(names):
        raise fields.wrong("tools", "each must have another name")
    parallel = fields.flag("parallel_tool_calls", True)
    choice = fields.value("tool_choice")
    if choice is None or choice == "auto":
        return ToolUse(tuple(tools), parallel=parallel)
    if choice == "none":
        return ToolUse()
    forced, allowed = _chosen(choice, names)
    if not tools or forced is None or not {*forced, *allowed} <= set(names):
        raise fields.wrong(
            "tool_choice",
            'must be "none", "auto", "required", {"type": "function", "function": {"name": NAME}} or '
            '{"type": "allowed_tools", …}, with tools that the request has',
        )
    kept = tuple(tool for tool in tools if tool["function"]["name"] in allowed)
    return ToolUse(kept, tuple(forced), parallel)


def _chosen(choice: Any, names: Sequence[str]) -> tuple[Sequence[str] | None, Sequence[str]]:
    """The tools of which one must be called (None if the choice cannot be read), and those that may be called."""
    if choice == "required":
        return names, names
    if not isinstance(choice, dict):
        return None, ()
    if choice.get("type") == "function" and isinstance(choice.get("function"), dict):
        name = choice["function"].get("name")
        return ([name], names) if isinstance(name, str) else (None, ())
    allowed = choice.get("allowed_tools")
    if choice.get("type") == "allowed_tools" and isinstance(allowed, dict) and isinstance(allowed.get("tools"), list):
        functions = [tool.get("function") for tool in allowed["tools"] if isinstance(tool, dict)]
        own = [value["name"] for value in functions if isinstance(value, dict) and isinstance(value.get("name"), str)]
        if len(own) == len(allowed["tools"]) and allowed.get("mode") in ("auto", "required"):
            return (own if allowed["mode"] == "required" else ()), own
    return None, ()


def _tool(fields: Fields, tool: object, number: int) -> dict[str, Any]:
    function = tool.get("function") if isinstance(tool, dict) and tool.get("type") == "function" else None
    if not isinstance(tool, dict) or not isinstance(function, dict):
        raise fields.wrong(f"tools[{number}]", 'must be {"type": "function", "function": {…}}')
    name, parameters = function.get("name"), function.get("parameters")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise fields.wrong(f"tools[{number}].function.name", f"must be a name that matches {_NAME.pattern}")
    if parameters is not None and not isinstance(parameters, dict):
        raise fields.wrong(f"tools[{number}].function.parameters", f"must be a JSON schema, not {kind(parameters)}")
    return tool


def read_calls(text: str, use: ToolUse) -> tuple[str, tuple[ToolCall, ...]]:
    """The text around the calls of an answer, and the calls. If it has no calls, or one of them cannot be read, all of
    it is text. A forced call that was cut off leaves no text."""
    rest, calls = "", _whole(text, use.names)
    if not calls and use.forced and _is_cut(text):
        begun = _CUT.match(text)
        calls = [] if begun is None else [ToolCall(begun[1], {}, begun[2] or "")]
    elif not calls:
        rest, calls = _tagged(text, use.names)
    return rest, tuple(calls if use.parallel else calls[:1])


def _whole(text: str, names: frozenset[str]) -> list[ToolCall]:
    if _WHOLE.match(text) is None:
        return []
    try:
        return _calls(parse_json(text.strip().removeprefix(_MISTRAL).strip()), names)
    except BadRow:
        return []


def _is_cut(text: str) -> bool:
    try:
        parse_json(text)
    except BadRow:
        return True
    return False


def _tagged(text: str, names: frozenset[str]) -> tuple[str, list[ToolCall]]:
    texts: list[str] = []
    calls: list[ToolCall] = []
    place = 0
    while begun := _BEGUN.search(text, place):
        texts.append(text[place : begun.start()].rstrip())
        try:
            value, end = parse_json_at(text, begun.end())
        except BadRow:
            return text, []
        found, ended = _calls(value, names, tagged=True), _ENDED.match(text, end)
        if not found or ended is None:
            return text, []
        calls += found
        place = ended.end()
    rest = text[place:]
    return "".join([*texts, rest.rstrip() if calls else rest]), calls


def _calls(value: Any, names: frozenset[str], *, tagged: bool = False) -> list[ToolCall]:
    """The calls in a JSON value, which is one call or a list; none if any part of it is not a call. Between tags, a
    call of a tool without parameters may omit the arguments."""
    calls = []
    for call in value if isinstance(value, list) else [value]:
        arguments = call.get("arguments", call.get("parameters")) if isinstance(call, dict) else None
        if tagged and isinstance(call, dict) and call.keys() <= _WITHOUT_ARGUMENTS:
            arguments = {}
        name = call.get("name") if isinstance(call, dict) else None
        if not isinstance(arguments, dict) or not isinstance(name, str) or name not in names:
            return []
        if len(only_finite(arguments)) < len(arguments):
            return []
        calls.append(ToolCall(name, arguments))
    return calls


class CallScanner:
    """Holds back text that may be a call, while an answer comes in pieces."""

    def __init__(self) -> None:
        self._held = ""
        self._sent = False

    def push(self, piece: str) -> str:
        """Take a piece. Returns the text that certainly comes before any call."""
        text = self._held + piece
        keep = self._from(text)
        self._held = text[keep:]
        self._sent = self._sent or bool(text[:keep].strip())
        return text[:keep]

    def finish(self) -> str:
        """The text that was held back."""
        held, self._held = self._held, ""
        return held

    def _from(self, text: str) -> int:
        """The index at which a call may begin."""
        if not self._sent and (_WHOLE.match(text) or _may_become_whole(text)):
            return 0
        begun = _MAY_BEGIN.search(text)
        if begun is not None:
            return len(text[: begun.start()].rstrip())
        return len(text[: len(text) - overlap(text, _OPEN)].rstrip())


class ToolStream:
    """An answer that comes in pieces. It is searched for calls if there are tools; otherwise all of it is text."""

    def __init__(self, use: ToolUse):
        self._use, self._scanner = use, CallScanner() if use.tools else None

    def push(self, piece: str) -> str:
        """Take a piece. Returns the text to send."""
        return piece if self._scanner is None else self._scanner.push(piece)

    def end(self, piece: str) -> tuple[str, tuple[ToolCall, ...]]:
        """Take the last piece. Returns the rest of the text, and the calls."""
        if self._scanner is None:
            return piece, ()
        return read_calls(self._scanner.push(piece) + self._scanner.finish(), self._use)


def _may_become_whole(text: str) -> bool:
    """Whether a text matches `_WHOLE` once the right characters follow."""
    rest = text.lstrip()
    if _MISTRAL.startswith(rest):
        return True
    rest = rest.removeprefix(_MISTRAL).lstrip().removeprefix("[").lstrip()
    if not rest.startswith("{"):
        return not rest
    key = rest[1:].lstrip()
    return any(f'"{name}"'.startswith(key) for name in _KEYS)
