"""Turns the messages and texts of requests into tokens, on threads other than the event loop's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, TypeVar

from veneer.data.encoded.chat import Encoder, new_template_of
from veneer.data.files.json_values import BadRow, kind, parse_json
from veneer.data.forms.turns import REASONING_KEYS
from veneer.data.templates.bounded_template import TemplateRefused
from veneer.errors import DataError
from veneer.http_server.body import MOST_JSON_VALUES, too_many_values
from veneer.http_server.errors import ApiError
from veneer.http_server.fields import Fields
from veneer.io.tokenizer import Tokenizer
from veneer.serving.openai_api.tool_calls import ToolUse, read_tools

Message = dict[str, Any]
Result = TypeVar("Result")
TEMPLATE_ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",
}
TEXT_FIELDS = {"name": "name", "tool_name": "name", "tool_call_id": "tool_call_id"} | {
    key: key for key in REASONING_KEYS
}
"""Fields of a turn that hold text, and their names in templates: `tool_name` is Ollama's, and thoughts have several
names."""
MOST_MESSAGES = 10_000
LONG_TEXT_SIZE = 100_000
"""The number of characters or tokens from which on a text counts as long: encoding it takes tenths of a second."""
OVERFLOW_CODE = "context_length_exceeded"
"""OpenAI's code for prompts that are too long for the model."""
LONG_TEXT_THREADS = 2
"""How many long texts are encoded at a time. They have threads of their own, so that short requests need not wait."""


@dataclass(frozen=True, slots=True)
class CountedTurns:
    """The turns of a conversation that is short enough to fit into the context, as far as its characters tell."""

    messages: Sequence[Message]
    tools: Sequence[Mapping[str, Any]]
    characters: int
    """The least number of characters of the turns and tools, however a template writes them."""


def read_messages(fields: Fields) -> list[Message]:
    """The turns of a conversation in the form that chat templates expect.

    Keys of a turn that no template reads (`id`, `annotations`) are left out, because clients send back whatever they
    got. If a turn of the assistant has no content, its refusal counts as the content. The arguments of calls become
    objects, as templates expect.

    Raises:
        ApiError: 400, there are no messages, or one breaks a rule.
    """
    turns = fields.items("messages")
    if not turns:
        raise fields.wrong("messages", "must be a list of at least one message")
    if len(turns) > MOST_MESSAGES:
        raise fields.wrong("messages", f"{len(turns):,} messages; at most {MOST_MESSAGES:,} are accepted")
    messages = []
    for number, turn in enumerate(turns):
        path = f"{fields.path('messages')}[{number}]"
        if not isinstance(turn, dict):
            raise ApiError(400, f"{path}: must be an object, not {kind(turn)}", param=path)
        messages.append(_message(Fields(turn, path)))
    return messages


def _message(turn: Fields) -> Message:
    given = turn.text("role")
    role = TEMPLATE_ROLES.get(given or "")
    if role is None:
        raise turn.wrong("role", f"must be one of {', '.join(TEMPLATE_ROLES)}")
    message: Message = {"role": role, "content": _content(turn)}
    calls = turn.items("tool_calls")
    if calls:
        message["tool_calls"] = [_call(turn, call, number) for number, call in enumerate(calls)]
    if message["content"] is None:
        if role != "assistant":
            raise turn.wrong("content", "must be a string or a list of text parts")
        message["content"] = turn.text("refusal") or ""
    for key, own in TEXT_FIELDS.items():
        value = turn.text(key)
        if value is not None:
            message.setdefault(own, value)
    turn.neutral("audio")
    turn.neutral("images", [])
    turn.neutral("function_call")
    return message


def _content(turn: Fields) -> str | None:
    content = turn.value("content")
    if not isinstance(content, list):
        return turn.text("content")
    texts = []
    for number, part in enumerate(content):
        form = part.get("type") if isinstance(part, dict) else None
        text = part.get(form) if isinstance(part, dict) and form in ("text", "refusal") else None
        if not isinstance(text, str):
            raise turn.wrong(
                f"content[{number}]", 'must be a text part, {"type": "text", "text": …}; this server reads only text'
            )
        texts.append(text)
    return "".join(texts)


def _call(turn: Fields, call: object, number: int) -> dict[str, Any]:
    path = f"tool_calls[{number}]"
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(call, dict) or not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise turn.wrong(path, 'must be {"id": …, "type": "function", "function": {"name": …, "arguments": …}}')
    arguments = function.get("arguments", {})
    if isinstance(arguments, str):
        if too_many_values(arguments):
            raise turn.wrong(
                f"{path}.function.arguments", f"has more than {MOST_JSON_VALUES:,} texts, lists and objects"
            )
        try:
            arguments = parse_json(arguments) if arguments.strip() else {}
        except BadRow as error:
            raise turn.wrong(f"{path}.function.arguments", f"must be JSON: {error}") from error
    if not isinstance(arguments, dict):
        raise turn.wrong(f"{path}.function.arguments", f"must be a JSON object, not {kind(arguments)}")
    identity = {"id": call["id"]} if isinstance(call.get("id"), str) else {}
    return {**identity, "type": "function", "function": {"name": function["name"], "arguments": arguments}}


class PromptEncoder:
    """Makes the prompts of one model.

    Args:
        tokenizer: the model's tokenizer.
        encoder: encodes conversations with the tokenizer and the chat template.
        context: the most tokens of a prompt and its answer together.
        longest: the most tokens that the cache can hold, if that is less than the context.
    """

    def __init__(self, tokenizer: Tokenizer, encoder: Encoder, context: int, longest: int | None = None):
        self._tokenizer, self._encoder, self.context = tokenizer, encoder, context
        self.longest = context if longest is None else longest
        self._long = ThreadPoolExecutor(LONG_TEXT_THREADS, thread_name_prefix="veneer-long-texts")

    @property
    def tokenizer_info(self) -> dict[str, Any]:
        """The control tokens and template of the tokenizer's files, by the names of tokenizer_config.json."""
        tokenizer = self._tokenizer
        return {
            "tokenizer_class": tokenizer.config.get("tokenizer_class"),
            "chat_template": tokenizer.chat_template,
            "bos_token": tokenizer.bos_token,
            "eos_token": tokenizer.eos_token,
            "pad_token": tokenizer.pad_token,
            "unk_token": tokenizer.unk_token,
            "add_bos_token": tokenizer.add_bos,
            "model_max_length": self.context,
        }

    @cached_property
    def takes_tools(self) -> bool:
        """Whether the chat template uses tools; other templates would drop them in silence."""
        return self._tokenizer.tool_template is not None or "tools" in (self._tokenizer.chat_template or "")

    @cached_property
    def takes_calls(self) -> bool:
        """Whether the chat template writes the tool calls of a conversation."""
        templates = (self._tokenizer.chat_template, self._tokenizer.tool_template)
        return any("tool_calls" in (template or "") for template in templates)

    @cached_property
    def _most_characters(self) -> int:
        """The most characters of a text that can fit into the context: if all tokens were the longest one."""
        return self.context * max(len(token) for token in self._tokenizer.backend.get_vocab(with_added_tokens=True))

    def read_tools(self, fields: Fields) -> ToolUse:
        """The tools of a request; see `tool_calls.read_tools`.

        Raises:
            ApiError: 400, a tool breaks a rule, or the chat template would drop the tools in silence.
        """
        use = read_tools(fields)
        if use.tools and not self.takes_tools:
            raise ApiError(
                400,
                "tools: this model's chat template ignores tools, so the model would never see them; leave them out",
                param="tools",
            )
        return use

    async def read(self, fields: Fields, tools: Sequence[Mapping[str, Any]] = ()) -> CountedTurns:
        """The conversation in a request's `messages`, read on another thread, because they may be megabytes.

        Raises:
            ApiError: 400, a turn breaks a rule, the text is far longer than the context, or the template would drop
                tool calls.
        """
        return await asyncio.to_thread(lambda: self._conversation(read_messages(fields), tools))

    async def conversation(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """The tokens of turns that do not come from `read`; see `tokens_of`.

        Raises:
            ApiError: see `read` and `tokens_of`.
        """
        return await self.tokens_of(await asyncio.to_thread(self._conversation, messages))

    def _conversation(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()) -> CountedTurns:
        if not self.takes_calls and any("tool_calls" in message for message in messages):
            raise ApiError(
                400,
                "messages: this model's chat template ignores tool calls, so the model would never see them",
                param="messages",
            )
        of_turns, of_tools = _characters_of_turns(messages), sum(map(_characters, tools))
        self._check_size(of_turns, "messages")
        self._check_size(of_tools, "tools")
        return CountedTurns(messages, tools, of_turns + of_tools)

    async def tokens_of(self, conversation: CountedTurns) -> tuple[int, ...]:
        """The tokens of a conversation, up to where the assistant's answer begins. They may exceed the context.

        Raises:
            ApiError: 400, the template refuses it.
        """
        work = partial(self._encoder.prompt_tokens, conversation.messages, conversation.tools or None)
        try:
            tokens = await self._on_thread(conversation.characters, work)
        except TemplateRefused as error:
            # A template that took too long refuses for good. One client's conversation must not end it for all others.
            self._encoder = Encoder(self._tokenizer, new_template_of(self._tokenizer))
            raise ApiError(400, str(error), param="messages", code="invalid_value") from error
        except DataError as error:
            raise ApiError(400, str(error), param="messages", code="invalid_value") from error
        return tuple(tokens)

    async def text(self, text: str, param: str, *, add_special_tokens: bool = True) -> tuple[int, ...]:
        """The tokens of a plain text, with the tokens that the tokenizer puts around texts. They may exceed the
        context.

        Raises:
            ApiError: 400, it is far longer than the context.
        """
        self._check_size(len(text), param)
        # Encoding a long text here would block all threads of the interpreter.
        encode = self._tokenizer.encode_aside if len(text) >= LONG_TEXT_SIZE else self._tokenizer.encode
        encode = partial(encode, text, add_special_tokens=add_special_tokens)
        return tuple(await self._on_thread(len(text), encode))

    async def tokens(self, tokens: Sequence[Any], param: str, vocab_size: int) -> tuple[int, ...]:
        """The tokens of a prompt that a client has tokenised itself. They may exceed the context.

        Raises:
            ApiError: 400, one is not a token of the model.
        """
        work = partial(checked_tokens, tokens, param, vocab_size)
        return work() if len(tokens) < LONG_TEXT_SIZE else await self._on_thread(len(tokens), work)

    def decoded(self, tokens: Sequence[int]) -> str:
        """The text of tokens, control tokens included. Must not be called on the event loop's thread."""
        if len(tokens) >= LONG_TEXT_SIZE:
            return self._tokenizer.decode_aside(tokens)
        return self._tokenizer.decode(tokens, skip_special_tokens=False)

    def too_long(self, tokens: int, param: str) -> ApiError:
        """The error for a prompt that leaves no room for an answer."""
        return self._overflow(f"{param}: {tokens:,} tokens together with the answer's are too many", param)

    async def _on_thread(self, size: int, work: Callable[[], Result]) -> Result:
        """The result of `work` on a text of so many characters or tokens, computed on another thread."""
        pool = self._long if size >= LONG_TEXT_SIZE else None
        return await asyncio.get_running_loop().run_in_executor(pool, work)

    def _check_size(self, characters: int, param: str) -> None:
        if characters > self._most_characters:
            raise self._overflow(f"{param}: {characters:,} characters are more than can fit", param)

    def _overflow(self, problem: str, param: str) -> ApiError:
        # OpenAI's client gives its callers the message alone. Frameworks look for the code or for OpenAI's sentence in
        # it, with the number in plain digits, to shorten a conversation and ask again.
        return ApiError(
            400,
            f"{problem}: this model's maximum context length is {self.context} tokens; shorten the prompt or the "
            f"answer's limit ({OVERFLOW_CODE})",
            param=param,
            code=OVERFLOW_CODE,
        )


def checked_tokens(tokens: Sequence[Any], param: str, vocab_size: int) -> tuple[int, ...]:
    """JSON values that must be tokens; see `PromptEncoder.tokens`."""
    # Loops in Python over millions of tokens would take several times as long.
    if not set(map(type, tokens)) <= {int} or not 0 <= min(tokens, default=0) <= max(tokens, default=0) < vocab_size:
        raise ApiError(400, f"{param}: tokens must be whole numbers from 0 to {vocab_size - 1:,}", param=param)
    return tuple(tokens)


def _characters_of_turns(messages: Sequence[Message]) -> int:
    """The least number of characters that a template may write for turns: texts, and tool calls."""
    return sum(
        sum(_characters(value) for key, value in message.items() if key not in ("role", "tool_calls"))
        + sum(
            len(call.get("id", "")) + sum(map(_characters, call["function"].values()))
            for call in message.get("tool_calls", ())
        )
        for message in messages
    )


def _characters(value: object) -> int:
    """The least number of characters of a JSON value, however a template writes it: lists and objects have brackets,
    and separators between their items."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, Mapping):
        return 2 + sum(2 + _characters(key) + _characters(item) for key, item in value.items())
    if isinstance(value, Sequence):
        return max(2, 1 + len(value)) + sum(map(_characters, value))
    return 1
