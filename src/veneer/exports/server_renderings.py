"""Compares how llama.cpp's server writes a conversation with how training wrote it.

The server does two things that no file can undo, so it may write conversations of a sound export differently. It always
sets `enable_thinking`, which training leaves unset; it can be asked for either value. And it parses the arguments of
tool calls and writes them again, so that `{"a":1.0}` becomes `{"a": 1}`; training keeps them as in the rows.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from veneer.data.encoded.chat import template_of
from veneer.data.forms.turns import Message
from veneer.errors import DataError
from veneer.exports.llama_cpp import LlamaCpp
from veneer.exports.prompts import Prompt
from veneer.io.tokenizer import Tokenizer

SWITCH = "enable_thinking"
ARGUMENTS = (
    "llama.cpp's server writes the arguments of tool calls again from their values; rows that have them in another "
    "form (as text without spaces, or 1.0) were trained in that form"
)


@dataclass(frozen=True, slots=True)
class ServerRendering:
    """One conversation as the server writes it."""

    text: str | None
    """The text; that of the reference if the two differ in a way that no file can prevent."""
    note: str | None = None
    """A note for the user in that case."""


def server_rendering(server: LlamaCpp, tokenizer: Tokenizer, prompt: Prompt, reference: str | None) -> ServerRendering:
    """A conversation as llama.cpp reads it.

    Args:
        server: the server of the export.
        tokenizer: the tokenizer of the export.
        prompt: the conversation. For plain text, and for a file without template, where llama.cpp has its own, the
            text is None.
        reference: the text that the live adapter's template makes of it.
    """
    if tokenizer.chat_template is None or prompt.messages is None:
        return ServerRendering(None)
    # If a file puts bos before texts, the server removes the one that the template writes, and adds it again in
    # tokenizing.
    left_off = tokenizer.add_bos and prompt.tokens[:1] == (tokenizer.bos_id,)
    bos = tokenizer.bos_token or "" if left_off else ""
    first = bos + server.render(prompt.messages, prompt.tools)
    if first == reference:
        return ServerRendering(first)
    anew = _with_arguments_anew(tokenizer, prompt, reference)
    for value, text in ((None, first), *_switched(server, tokenizer, prompt, bos)):
        if text in (reference, anew):
            notes = [] if value is None else [_switch_note(value)]
            return ServerRendering(reference, "; ".join([*notes, *([ARGUMENTS] if text != reference else [])]) or None)
    return ServerRendering(first)


def _switched(server: LlamaCpp, tokenizer: Tokenizer, prompt: Prompt, bos: str) -> Iterator[tuple[bool, str]]:
    """The conversation with either value of the switch, if the template uses it."""
    assert prompt.messages is not None
    if SWITCH in (tokenizer.chat_template or "") + (tokenizer.tool_template or ""):
        for value in (True, False):
            yield value, bos + server.render(prompt.messages, prompt.tools, variables={SWITCH: value})


def _switch_note(value: bool) -> str:
    said, otherwise = ("true", "false") if value else ("false", "true")
    return (
        f"training left {SWITCH} unset, and llama.cpp's server sets it to {otherwise} for this chat template: ask it "
        f'with "chat_template_kwargs": {{"{SWITCH}": {said}}}'
    )


def _with_arguments_anew(tokenizer: Tokenizer, prompt: Prompt, reference: str | None) -> str | None:
    """The conversation as the template writes it with the arguments of its tool calls as llama.cpp has them.

    None if the conversation calls no tools, or if more differs: the export's template writes another text than the
    reference, or refuses such arguments.
    """
    template, messages = template_of(tokenizer), prompt.messages or ()
    if template is None or not any(message.get("tool_calls") for message in messages):
        return None
    try:
        if template.render(messages, add_generation_prompt=True, tools=prompt.tools) != reference:
            return None
        return template.render([_anew(one) for one in messages], add_generation_prompt=True, tools=prompt.tools)
    except DataError:
        return None


def _anew(message: Message) -> Message:
    calls = message.get("tool_calls")
    if not isinstance(calls, list | tuple):
        return message
    return {**message, "tool_calls": [_call_anew(call) for call in calls]}


def _call_anew(call: Any) -> Any:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or "arguments" not in function:
        return call
    arguments = function["arguments"]
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except ValueError:
            return call
    return {**call, "function": {**function, "arguments": _whole(arguments)}}


def _whole(value: Any) -> Any:
    """Plain values, with whole numbers for floats whose fraction is zero."""
    if isinstance(value, Mapping):
        return {key: _whole(one) for key, one in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_whole(one) for one in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
