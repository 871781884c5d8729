"""POST /v1/chat/completions: answers a conversation, whole or as a stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.types import ASGIApp

from veneer.generation.request import Finished, GenerationRequest, GenerationResult, TokenLogprob, TokenMade
from veneer.http_server.body import read_body
from veneer.http_server.errors import ApiError, json_response
from veneer.http_server.fields import Fields
from veneer.http_server.stream import EVENT_STREAM_TYPE, StreamedResponse
from veneer.serving.answers import Answers
from veneer.serving.grammar import Grammar
from veneer.serving.openai_api.answers import chunks, fingerprint, head
from veneer.serving.openai_api.logprobs import chat_logprobs, read_logprobs
from veneer.serving.openai_api.sampling_fields import read_sampling
from veneer.serving.openai_api.tool_calls import ToolCall, ToolStream, ToolUse, read_calls
from veneer.serving.openai_api.usage import Usage, read_stream
from veneer.serving.service import Service


@dataclass(frozen=True, kw_only=True, slots=True)
class ChatRequest:
    """A request for a chat completion."""

    model: str
    requests: list[GenerationRequest]
    tools: ToolUse
    stream: bool
    usage: bool
    """Whether a streamed answer ends with its usage."""
    logprobs: bool


async def chat_completions(service: Service, request: Request) -> ASGIApp:
    """Answer a conversation, whole or as a stream.

    Raises:
        ApiError: the request is refused or fails.
    """
    fields = Fields(await read_body(request, service.limits))
    chat = await read_chat(service, fields)
    headers = service.ignored(fields)
    kind = "chat.completion.chunk" if chat.stream else "chat.completion"
    first, usage = head("chatcmpl", kind, chat.model), Usage(len(chat.requests))
    if chat.stream:
        service.check(chat.requests)
        deltas = partial(_deltas, service, chat, usage)
        stream = chunks(service, chat.requests, first, deltas, usage if chat.usage else None)
        return StreamedResponse(stream, EVENT_STREAM_TYPE, headers)
    results = await service.results(chat.requests, request.receive)
    for number, result in enumerate(results):
        usage.add(number, result.finished)
    first |= fingerprint(service, [result.finished.adapter_key for result in results])
    # The log-probabilities of many answers take megabytes.
    return await asyncio.to_thread(_whole, service, chat, results, first, usage, headers)


def _whole(
    service: Service,
    chat: ChatRequest,
    results: Sequence[GenerationResult],
    first: Mapping[str, Any],
    usage: Usage,
    headers: Mapping[str, str],
) -> ASGIApp:
    choices = [_choice(service, chat, number, result) for number, result in enumerate(results)]
    return json_response({**first, "choices": choices, "usage": usage.content}, headers=headers)


async def read_chat(service: Service, fields: Fields) -> ChatRequest:
    """Read a request, and make its prompt.

    Raises:
        ApiError: 400 or 404, the request is refused.
    """
    model = fields.text("model")
    adapter = service.models.adapter_of(model)
    stream, usage = read_stream(fields)
    logprobs = read_logprobs(fields)
    old, new = (fields.integer(name, 1, service.context - 1) for name in ("max_tokens", "max_completion_tokens"))
    settings = read_sampling(
        fields,
        context=service.context,
        vocab_size=service.spec.vocab_size,
        choices=service.limits.choices,
        stop_ids=service.stop_ids,
        max_tokens=old if new is None else new,
    )
    tools = service.prompts.read_tools(fields)
    for name in ("functions", "function_call", "audio", "prediction", "web_search_options"):
        fields.neutral(name)
    fields.neutral("modalities", ["text"])
    fields.neutral("echo", False)
    conversation = await service.prompts.read(fields, tools.tools)
    schema, param = _schema(fields, tools)
    constraints: tuple[Grammar, ...] = ()
    if schema is not None:
        if settings.sampling.min_new_tokens or settings.stop_ids is not None:
            raise ApiError(400, f"{param}: not together with min_tokens, ignore_eos or stop_token_ids", param=param)
        constraints = await service.constraints(schema, param, settings.n, tools.around_answer())
    prompt = await service.prompts.tokens_of(conversation)
    if tools.forced:
        settings = settings.of_call()
    requests = settings.requests(
        prompt,
        adapter,
        service.prompts,
        param="messages",
        logprobs=logprobs,
        constraints=constraints,
    )
    assert model is not None
    return ChatRequest(
        model=model, requests=requests, tools=tools, stream=stream, usage=usage, logprobs=logprobs is not None
    )


def _schema(fields: Fields, tools: ToolUse) -> tuple[dict[str, Any] | bool | None, str]:
    """The schema that answers must have, and the field that asks for it."""
    form = fields.section("response_format")
    kind = None if form is None else form.text("type")
    if tools.forced:
        if kind not in (None, "text"):
            raise fields.wrong("response_format", "not together with a tool_choice that forces a call")
        return tools.schema(), "tools"
    if form is None or kind == "text":
        return None, ""
    if kind == "json_object":
        form.neutral("schema")
        return {"type": "object"}, "response_format"
    if kind != "json_schema":
        raise form.wrong("type", "must be text, json_object or json_schema")
    given = form.section("json_schema")
    schema = None if given is None else given.value("schema")
    if given is not None:
        given.text("name")
        given.flag("strict")  # an answer always follows its schema
    if not isinstance(schema, dict | bool):
        raise form.wrong("json_schema", "must be an object with a JSON schema under schema")
    return schema, "response_format"


def _choice(service: Service, chat: ChatRequest, number: int, result: GenerationResult) -> dict[str, Any]:
    text, calls = read_calls(result.text, chat.tools) if chat.tools.tools else (result.text, ())
    no_text = not text and (calls or chat.tools.forced)
    message: dict[str, Any] = {"role": "assistant", "content": None if no_text else text, "refusal": None}
    if calls:
        contents = [call.content(index) for index, call in enumerate(calls)]
        message["tool_calls"] = [{key: value for key, value in call.items() if key != "index"} for call in contents]
    return {
        "index": number,
        "message": message,
        "logprobs": _logprobs(service, result.logprobs, result.finished.end) if chat.logprobs else None,
        "finish_reason": _reason(calls, result.finished),
    }


def _reason(calls: Sequence[ToolCall], finished: Finished) -> str:
    return "tool_calls" if calls and calls[-1].cut is None else finished.reason.value


def _logprobs(service: Service, scored: Sequence[TokenLogprob], end: TokenLogprob | None = None) -> dict[str, Any]:
    return chat_logprobs(scored, end, service.token_bytes)


async def _deltas(
    service: Service, chat: ChatRequest, usage: Usage, answers: Answers
) -> AsyncGenerator[dict[str, Any]]:
    begun: set[int] = set()
    streams = [ToolStream(chat.tools) for _ in chat.requests]
    async for number, event in answers.events():
        if number not in begun:
            begun.add(number)
            yield {"index": number, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}
        if isinstance(event, TokenMade):
            text = streams[number].push(event.text)
            if text or event.logprob is not None:
                logprobs = None if event.logprob is None else _logprobs(service, [event.logprob])
                yield {"index": number, "delta": {"content": text}, "logprobs": logprobs, "finish_reason": None}
        elif isinstance(event, Finished):
            usage.add(number, event)
            text, calls = streams[number].end(event.text)
            if text:
                yield {"index": number, "delta": {"content": text}, "logprobs": None, "finish_reason": None}
            for index, call in enumerate(calls):
                delta = {"tool_calls": [call.content(index)]}
                yield {"index": number, "delta": delta, "logprobs": None, "finish_reason": None}
            logprobs = None if event.end is None else _logprobs(service, [], event.end)
            yield {"index": number, "delta": {}, "logprobs": logprobs, "finish_reason": _reason(calls, event)}
