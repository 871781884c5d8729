"""POST /api/chat and /api/generate: Ollama's chat and text generation, as lines of JSON unless `stream` is false."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.types import ASGIApp

from veneer.generation.request import Finished, GenerationRequest, TokenMade
from veneer.http_server.body import read_body
from veneer.http_server.client_gone import unless_gone
from veneer.http_server.errors import ApiError, json_response
from veneer.http_server.fields import Fields
from veneer.http_server.stream import JSON_LINES_TYPE, StreamedResponse, line
from veneer.serving.answers import Answers
from veneer.serving.grammar import Grammar
from veneer.serving.ollama_api.facts import named, now
from veneer.serving.openai_api.logprobs import chat_logprobs, read_logprobs
from veneer.serving.openai_api.sampling_fields import REPETITION_PENALTIES, read_sampling
from veneer.serving.openai_api.tool_calls import ToolCall, ToolStream, ToolUse
from veneer.serving.service import Service

DEFAULT_OPTIONS = {"temperature": 0.8, "top_k": 40, "top_p": 0.9}
"""Ollama's defaults for options that a request leaves out."""
SHARED_OPTIONS = ("temperature", "top_k", "top_p", "min_p", "seed", "stop", "presence_penalty", "frequency_penalty")
NO_SEED = ("seed", -1)
"""The option and value with which Ollama's clients ask for no seed. They send it by default."""
UNSUPPORTED_OPTIONS: dict[str, tuple[float, ...]] = {"mirostat": (0,), "typical_p": (1, 1.0), "tfs_z": (1, 1.0)}
"""Options that are not supported, each with the values at which it has no effect."""
NO_TOOLS = ToolUse()


@dataclass(frozen=True, slots=True)
class OllamaRequest:
    """A request for a chat message or for text."""

    model: str
    request: GenerationRequest
    chat: bool
    """Whether the answer is a message; otherwise it is text."""
    tools: ToolUse
    stream: bool

    def piece(
        self, text: str, calls: tuple[ToolCall, ...] = (), logprobs: Sequence[dict[str, Any]] = ()
    ) -> dict[str, Any]:
        """A piece of the answer other than the last one, with the log-probabilities of its tokens if the request wants
        them."""
        piece: dict[str, Any] = {"model": self.model, "created_at": now()}
        piece |= {"logprobs": [*logprobs]} if logprobs else {}
        if not self.chat:
            return {**piece, "response": text, "done": False}
        message: dict[str, Any] = {"role": "assistant", "content": text}
        if calls:
            message["tool_calls"] = [{"function": {"name": call.name, "arguments": call.arguments}} for call in calls]
        return {**piece, "message": message, "done": False}


async def chat(service: Service, request: Request) -> ASGIApp:
    """Answer a conversation.

    Raises:
        ApiError: the request is refused or fails.
    """
    fields = Fields(await read_body(request, service.limits))
    model, stream = named(service, fields.text("model")), fields.flag("stream", True)
    if not fields.items("messages"):
        return _loaded(service, fields, model, {"message": {"role": "assistant", "content": ""}})
    tools = service.prompts.read_tools(fields)
    prompt = await service.prompts.tokens_of(await service.prompts.read(fields, tools.tools))
    generation = await _request(service, fields, model, prompt, "messages", tools)
    asked = OllamaRequest(model, generation, True, tools, stream)
    return await _answer(service, request, asked, service.ignored(fields))


async def generate(service: Service, request: Request) -> ASGIApp:
    """Answer a question, or continue text as it is (`raw`).

    Raises:
        ApiError: the request is refused or fails.
    """
    fields = Fields(await read_body(request, service.limits))
    model, stream = named(service, fields.text("model")), fields.flag("stream", True)
    text, system, raw = fields.text("prompt"), fields.text("system"), fields.flag("raw")
    for name, neutral in (("suffix", ""), ("template", ""), ("images", []), ("context", [])):
        fields.neutral(name, neutral)
    if not text:
        return _loaded(service, fields, model, {"response": ""})
    if raw:
        fields.neutral("system", "")
        prompt = await service.prompts.text(text, "prompt")
    else:
        turns = [{"role": "user", "content": text}]
        prompt = await service.prompts.conversation(
            [{"role": "system", "content": system}, *turns] if system else turns
        )
    generation = await _request(service, fields, model, prompt, "prompt")
    asked = OllamaRequest(model, generation, False, NO_TOOLS, stream)
    return await _answer(service, request, asked, service.ignored(fields))


async def _request(
    service: Service, fields: Fields, model: str, prompt: tuple[int, ...], param: str, tools: ToolUse = NO_TOOLS
) -> GenerationRequest:
    """The engine's request."""
    options = fields.section("options") or Fields({}, "options")
    for name, off in UNSUPPORTED_OPTIONS.items():
        options.neutral(name, *off)
    values = {name: options.value(name) for name in SHARED_OPTIONS}
    values["repetition_penalty"] = options.number("repeat_penalty", *REPETITION_PENALTIES, 1.0)
    given = {name: value for name, value in values.items() if value is not None and (name, value) != NO_SEED}
    longest = options.integer("num_predict", -2, service.context - 1)
    settings = read_sampling(
        Fields({**DEFAULT_OPTIONS, **given}, "options"),
        context=service.context,
        vocab_size=service.spec.vocab_size,
        choices=1,
        stop_ids=service.stop_ids,
        max_tokens=longest if longest is not None and longest > 0 else None,
    )
    schema = _schema(fields, tools)
    constraints: tuple[Grammar, ...] = ()
    if schema is not None:
        param_of_schema = "tools" if tools.forced else "format"
        constraints = await service.constraints(schema, param_of_schema, 1, tools.around_answer())
    if tools.forced:
        settings = settings.of_call()
    adapter = service.models.adapter_of(model)
    logprobs = read_logprobs(fields)
    (request,) = settings.requests(
        prompt, adapter, service.prompts, param=param, logprobs=logprobs, constraints=constraints
    )
    return request


def _schema(fields: Fields, tools: ToolUse) -> dict[str, Any] | None:
    """The schema that the answer must have, if any."""
    form = fields.value("format")
    if form is not None and form not in ("", "json") and not isinstance(form, dict):
        raise fields.wrong("format", 'must be "json" or a JSON schema')
    schema = {"type": "object"} if form == "json" else None if form == "" else form  # {} is a schema, of any JSON
    if not tools.forced:
        return schema
    if schema is not None:
        raise fields.wrong("format", "not together with a tool_choice that forces a call")
    return tools.schema()


async def _answer(service: Service, request: Request, asked: OllamaRequest, headers: Mapping[str, str]) -> ASGIApp:
    if asked.stream:
        service.check([asked.request])
        return StreamedResponse(_streamed(service, asked), JSON_LINES_TYPE, headers)

    async def whole() -> dict[str, Any]:
        async with service.answers([asked.request]) as answers:
            return _joined(asked, [piece async for piece in _pieces(service, asked, answers)])

    content = await unless_gone(request.receive, whole())
    return json_response(content, headers=headers)


async def _streamed(service: Service, asked: OllamaRequest) -> AsyncGenerator[bytes]:
    try:
        async with service.answers([asked.request]) as answers:
            async for piece in _pieces(service, asked, answers):
                yield line(piece)
    except ApiError as error:
        service.counted_error(error)
        yield line({"error": error.message})


async def _pieces(service: Service, asked: OllamaRequest, answers: Answers) -> AsyncGenerator[dict[str, Any]]:
    token_bytes = service.token_bytes
    stream = ToolStream(asked.tools)
    async for number, event in answers.events():
        if isinstance(event, TokenMade):
            text = stream.push(event.text)
            if text or event.logprob is not None:
                scored = [] if event.logprob is None else [event.logprob]
                yield asked.piece(text, (), chat_logprobs(scored, None, token_bytes)["content"])
        elif isinstance(event, Finished):
            text, calls = stream.end(event.text)
            whole = tuple(call for call in calls if call.cut is None)  # Ollama's arguments are an object
            if text or whole:
                yield asked.piece(text, whole)
            prompt, answer = (round(1e9 * seconds) for seconds in answers.durations(number))
            yield {
                **asked.piece("", (), chat_logprobs([], event.end, token_bytes)["content"]),
                "done": True,
                "done_reason": event.reason.value,
                "total_duration": prompt + answer,
                "load_duration": 0,
                "prompt_eval_count": event.prompt_tokens,
                "prompt_eval_duration": prompt,
                "eval_count": event.made_tokens,
                "eval_duration": answer,
            }


def _joined(asked: OllamaRequest, pieces: list[dict[str, Any]]) -> dict[str, Any]:
    """The whole answer, joined from its pieces."""
    logprobs = [token for piece in pieces for token in piece.get("logprobs", [])]
    last = {**pieces[-1], **({"logprobs": logprobs} if logprobs else {})}
    if not asked.chat:
        return {**last, "response": "".join(piece["response"] for piece in pieces)}
    message: dict[str, Any] = {
        "role": "assistant",
        "content": "".join(piece["message"]["content"] for piece in pieces),
    }
    calls = [call for piece in pieces for call in piece["message"].get("tool_calls", [])]
    return {**last, "message": {**message, "tool_calls": calls} if calls else message}


def _loaded(service: Service, fields: Fields, model: str, content: Mapping[str, Any]) -> ASGIApp:
    """The answer to a request without a question. Ollama then loads the model; here it is loaded already."""
    answer = {"model": model, "created_at": now(), **content, "done": True, "done_reason": "load"}
    return json_response(answer, headers=service.ignored(fields))
