"""POST /tokenize and /detokenize: turn texts and conversations into tokens, and tokens into text."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from veneer.http_server.body import read_body
from veneer.http_server.errors import json_response
from veneer.http_server.fields import Fields
from veneer.serving.openai_api.logprobs import token_text
from veneer.serving.openai_api.sampling_fields import NEUTRAL_VALUES
from veneer.serving.prompts import checked_tokens
from veneer.serving.service import Service

TEMPLATE_FIELDS = (
    "add_generation_prompt",
    "chat_template",
    "chat_template_kwargs",
    "continue_final_message",
    "documents",
)
"""Fields that would change how a template writes the prompt."""


async def tokenize(service: Service, request: Request) -> Response:
    """The tokens of a text, or of a conversation up to where the assistant's answer begins. They may exceed the
    context, because a client may want to know by how much.

    Raises:
        ApiError: the request is refused.
    """
    fields = Fields(await read_body(request, service.limits))
    service.models.adapter_of(fields.text("model") or service.models.base)
    strings = fields.flag("return_token_strs")
    if fields.value("messages") is not None:
        fields.neutral("prompt")
        for name in TEMPLATE_FIELDS:
            fields.neutral(name, *NEUTRAL_VALUES[name])
        tools = service.prompts.read_tools(fields).tools
        tokens = await service.prompts.tokens_of(await service.prompts.read(fields, tools))
    else:
        text = fields.text("prompt")
        if text is None:
            raise fields.wrong("prompt", "give a prompt or messages")
        whole = fields.flag("add_special_tokens", True)
        tokens = await service.prompts.text(text, "prompt", add_special_tokens=whole)
    headers = service.ignored(fields)
    return await asyncio.to_thread(partial(_answer, service, tokens, strings=strings, headers=headers))


def _answer(service: Service, tokens: Sequence[int], *, strings: bool, headers: Mapping[str, str]) -> Response:
    texts = None
    if strings:
        of_token = {token: token_text(service.token_bytes(token)) for token in set(tokens)}
        texts = [of_token[token] for token in tokens]
    content = {"count": len(tokens), "max_model_len": service.context, "tokens": list(tokens), "token_strs": texts}
    return json_response(content, headers=headers)


async def detokenize(service: Service, request: Request) -> Response:
    """The text of tokens, control tokens included.

    Raises:
        ApiError: the request is refused.
    """
    fields = Fields(await read_body(request, service.limits))
    service.models.adapter_of(fields.text("model") or service.models.base)
    given = fields.items("tokens")
    if given is None:
        raise fields.wrong("tokens", "must be a list of tokens")
    headers = service.ignored(fields)
    return await asyncio.to_thread(_text_of, service, given, headers)


def _text_of(service: Service, given: Sequence[Any], headers: Mapping[str, str]) -> Response:
    tokens = checked_tokens(given, "tokens", service.spec.vocab_size)
    return json_response({"prompt": service.prompts.decoded(tokens)}, headers=headers)
