"""POST /v1/completions: continues plain text or tokens, and scores them if `echo` and `logprobs` ask for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.types import ASGIApp

from veneer.generation.request import (
    MAX_LOGPROBS,
    Finished,
    GenerationRequest,
    GenerationResult,
    TokenLogprob,
    TokenMade,
)
from veneer.http_server.body import read_body
from veneer.http_server.errors import ApiError, json_response
from veneer.http_server.fields import Fields
from veneer.http_server.stream import EVENT_STREAM_TYPE, StreamedResponse
from veneer.serving.answers import Answers
from veneer.serving.openai_api.answers import chunks, fingerprint, head
from veneer.serving.openai_api.logprobs import TextOffsets, TokenBytes, completion_logprobs, token_text
from veneer.serving.openai_api.sampling_fields import read_sampling
from veneer.serving.openai_api.usage import Usage, read_stream
from veneer.serving.service import Service

DEFAULT_ANSWER_TOKENS = 16
"""The longest answer if a request does not set a limit, as in OpenAI's interface."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CompletionRequest:
    """A request for a completion."""

    model: str
    requests: list[GenerationRequest]
    """The requests for all answers, grouped by prompt."""
    texts: list[str | None]
    """For each request, the prompt as the client sent it; None if it sent tokens."""
    n: int
    """Answers to each prompt."""
    echo: bool
    drops_answer: bool
    """Whether only the prompt is wanted (`max_tokens: 0`). The engine makes one token even so."""
    stream: bool
    usage: bool
    """Whether a streamed answer ends with its usage."""


@dataclass(frozen=True, slots=True)
class _Prompt:
    """A prompt that was sent."""

    param: str
    """The name of its field."""
    tokens: tuple[int, ...]
    text: str | None
    """The text that was sent, or None for tokens."""


async def completions(service: Service, request: Request) -> ASGIApp:
    """Continue prompts, whole or as a stream.

    Raises:
        ApiError: the request is refused or fails.
    """
    fields = Fields(await read_body(request, service.limits))
    completion = await _read(service, fields)
    headers = service.ignored(fields)
    first, usage = head("cmpl", "text_completion", completion.model), Usage(completion.n)
    if completion.stream:
        service.check(completion.requests)
        pieces = partial(_pieces, service, completion, usage)
        stream = chunks(service, completion.requests, first, pieces, usage if completion.usage else None)
        return StreamedResponse(stream, EVENT_STREAM_TYPE, headers)
    results = await service.results(completion.requests, request.receive)
    for number, result in enumerate(results):
        usage.add(number, result.finished)
    if completion.drops_answer:
        usage.new_tokens = 0
    first |= fingerprint(service, [result.finished.adapter_key for result in results])
    # The log-probabilities of long prompts take megabytes.
    return await asyncio.to_thread(_whole, completion, results, service.token_bytes, first, usage, headers)


def _whole(
    completion: CompletionRequest,
    results: Sequence[GenerationResult],
    token_bytes: TokenBytes,
    first: Mapping[str, Any],
    usage: Usage,
    headers: Mapping[str, str],
) -> ASGIApp:
    choices: list[dict[str, Any]] = []
    echo: Echo | None = None
    for number, (request, result) in enumerate(zip(completion.requests, results, strict=True)):
        if completion.echo and number % completion.n == 0:
            echo = Echo(request, result, token_bytes, completion.texts[number])
        choices.append(
            completion_choice(number, request, result, token_bytes, echo=echo, drops_answer=completion.drops_answer)
        )
    return json_response({**first, "choices": choices, "usage": usage.content}, headers=headers)


async def _read(service: Service, fields: Fields) -> CompletionRequest:
    model = fields.text("model")
    adapter = service.models.adapter_of(model)
    stream, usage = read_stream(fields)
    echo, logprobs = fields.flag("echo"), fields.integer("logprobs", 0, MAX_LOGPROBS)
    most = fields.integer("max_tokens", 0 if echo else 1, service.context - 1)
    if stream and echo:
        raise fields.wrong("echo", "not together with stream")
    fields.neutral("suffix", "")
    fields.neutral("response_format", {"type": "text"})
    settings = read_sampling(
        fields,
        context=service.context,
        vocab_size=service.spec.vocab_size,
        choices=service.limits.choices,
        stop_ids=service.stop_ids,
        max_tokens=DEFAULT_ANSWER_TOKENS if most is None else max(1, most),
    )
    prompts = await _prompts(service, fields)
    if len(prompts) * settings.n > service.limits.choices:
        raise fields.wrong(
            "prompt", f"{len(prompts):,} prompts times n are more than {service.limits.choices:,} answers"
        )
    if echo and logprobs is not None:
        _check_scores(service, prompts, settings.n, logprobs)
    requests = [
        request
        for prompt in prompts
        for request in settings.requests(
            prompt.tokens,
            adapter,
            service.prompts,
            param=prompt.param,
            logprobs=logprobs,
            prompt_logprobs=logprobs if echo else None,
        )
    ]
    texts = [prompt.text for prompt in prompts for _ in range(settings.n)]
    assert model is not None
    return CompletionRequest(
        model=model,
        requests=requests,
        texts=texts,
        n=settings.n,
        echo=echo,
        drops_answer=most == 0,
        stream=stream,
        usage=usage,
    )


def _check_scores(service: Service, prompts: Sequence[_Prompt], n: int, logprobs: int) -> None:
    """Refuse more log-probabilities than one answer may hold: each takes some hundred bytes of memory.

    Raises:
        ApiError: there would be too many.
    """
    scores = sum(len(prompt.tokens) for prompt in prompts) * n * (logprobs + 1)
    most = max(service.limits.scores, service.context * (logprobs + 1))
    if scores > most:
        raise ApiError(
            400,
            f"echo: {scores:,} log-probabilities of prompts' tokens and their alternatives, in all choices; an answer "
            f"may hold {most:,}. Ask for fewer prompts at once, for fewer alternatives, or for one choice (n)",
            param="echo",
        )


async def _prompts(service: Service, fields: Fields) -> list[_Prompt]:
    """The prompts: text, tokens, or a list of either."""
    value = fields.value("prompt")
    whole = fields.flag("add_special_tokens", True)
    several = isinstance(value, list) and bool(value) and not isinstance(value[0], int)
    given = value if several else [value]
    if len(given) > service.limits.choices:
        raise fields.wrong("prompt", f"{len(given):,} prompts; at most {service.limits.choices:,} are accepted")
    prompts = []
    for number, sent in enumerate(given):
        param = f"prompt[{number}]" if several else "prompt"
        if isinstance(sent, str):
            prompts.append(_Prompt(param, await service.prompts.text(sent, param, add_special_tokens=whole), sent))
        elif isinstance(sent, list):
            prompts.append(_Prompt(param, await service.prompts.tokens(sent, param, service.spec.vocab_size), None))
        else:
            raise fields.wrong(param, "must be a string, a list of tokens, or a list of either")
    return prompts


class Echo:
    """A prompt that is repeated before each of its answers.

    Args:
        request: holds the prompt.
        result: holds the log-probabilities of the prompt's tokens, if they are wanted.
        token_bytes: gives the bytes of a token.
        text: the prompt as the client sent it; None if it sent tokens, which are then echoed as text.
    """

    def __init__(
        self, request: GenerationRequest, result: GenerationResult, token_bytes: TokenBytes, text: str | None = None
    ):
        spelt = token_text(b"".join(map(token_bytes, request.prompt)))
        self.text = spelt if text is None else text
        # The tokens include what the tokenizer puts before text; the text does not.
        self._places = TextOffsets(left_out=len(spelt) - len(self.text))
        self.logprobs: dict[str, Any] | None = None
        """The log-probabilities of the prompt's tokens, in the form of completions."""
        if request.logprobs is not None:
            self.logprobs = completion_logprobs(request.prompt, result.prompt_logprobs, token_bytes, self._places)

    def places(self) -> TextOffsets:
        """The counter of where the tokens of an answer begin."""
        return self._places.copy()


def completion_choice(
    number: int,
    request: GenerationRequest,
    result: GenerationResult,
    token_bytes: TokenBytes,
    *,
    echo: Echo | None = None,
    drops_answer: bool = False,
) -> dict[str, Any]:
    """A whole answer as a choice of OpenAI's completions.

    A stop token has no text in the answer, but it has a log-probability: clients that score text ask for one token more
    and drop the last one.

    Args:
        number: the choice's number.
        request: the request that was answered.
        result: the answer.
        token_bytes: gives the bytes of a token.
        echo: the prompt, if the answer repeats it.
        drops_answer: whether only the prompt is wanted.
    """
    kept, end = slice(0, 0) if drops_answer else slice(None), result.finished.end
    scored = (*result.logprobs, *([] if end is None else [end]))[kept]
    answer = result.text[kept]
    logprobs = None
    if request.logprobs is not None:
        places = TextOffsets() if echo is None else echo.places()
        logprobs = completion_logprobs([token.token for token in scored], scored, token_bytes, places)
        if echo is not None and echo.logprobs is not None:
            logprobs = {name: [*echo.logprobs[name], *values] for name, values in logprobs.items()}
    return {
        "index": number,
        "text": answer if echo is None else echo.text + answer,
        "logprobs": logprobs,
        "finish_reason": "length" if drops_answer else result.finished.reason.value,
    }


async def _pieces(
    service: Service, completion: CompletionRequest, usage: Usage, answers: Answers
) -> AsyncGenerator[dict[str, Any]]:
    places, token_bytes = [TextOffsets() for _ in completion.requests], service.token_bytes

    def piece(number: int, text: str, scored: TokenLogprob | None, reason: str | None) -> dict[str, Any]:
        own = places[number]
        logprobs = None if scored is None else completion_logprobs([scored.token], [scored], token_bytes, own)
        return {"index": number, "text": text, "logprobs": logprobs, "finish_reason": reason}

    async for number, event in answers.events():
        if isinstance(event, TokenMade) and (event.text or event.logprob is not None):
            yield piece(number, event.text, event.logprob, None)
        elif isinstance(event, Finished):
            usage.add(number, event)
            yield piece(number, event.text, event.end, event.reason.value)
