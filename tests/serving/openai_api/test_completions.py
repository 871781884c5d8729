"""Completions by OpenAI's own client: texts, tokens, several prompts, and the scores that lm-eval reads."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import openai
import pytest
import torch
from openai import OpenAI
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing

from helpers.servers.served import ADAPTER, BASE, call, serving, tiny_assistant
from veneer.assistant.assistant import Assistant
from veneer.generation.batch import generate
from veneer.generation.engine_thread import EngineThread
from veneer.generation.request import GenerationHandle, GenerationRequest
from veneer.generation.sampling import Sampling
from veneer.http_server.limits import ServerLimits
from veneer.model.language import LanguageModel


def scores(model: LanguageModel, tokens: list[int]) -> torch.Tensor:
    """Log-probabilities `[tokens - 1, vocab]` by one plain forward pass."""
    given = torch.tensor(tokens)
    with torch.no_grad():
        hidden = model.documents(given, torch.arange(len(tokens)), [len(tokens)])
        return torch.log_softmax(model.logits(hidden).double(), dim=-1)[:-1]


def continued(assistant: Assistant, model: LanguageModel, text: str, most: int) -> str:
    prompt = assistant.tokenizer.encode(text)
    (tokens,) = generate(model, [prompt], sampling=Sampling(max_new_tokens=most), stop_ids=assistant.stop_ids)
    return assistant.tokenizer.decode(tokens)


def test_texts_and_tokens_and_lists_of_them_are_continued(client: OpenAI, assistant: Assistant) -> None:
    texts = ["The parcel", "user 7"]
    want = [continued(assistant, assistant.model, text, 6) for text in texts]
    tokens = [assistant.tokenizer.encode(text) for text in texts]
    for prompt, answers in ((texts[0], want[:1]), (tokens[0], want[:1]), (texts, want), (tokens, want)):
        found = client.completions.create(model=BASE, prompt=prompt, max_tokens=6, temperature=0)
        assert [choice.text for choice in found.choices] == answers
        assert found.usage is not None
        assert found.usage.prompt_tokens == sum(map(len, tokens[: len(answers)]))


def test_sixteen_tokens_are_made_where_nothing_is_said(client: OpenAI) -> None:
    found = client.completions.create(model=BASE, prompt="The", extra_body={"ignore_eos": True})
    assert found.usage is not None
    assert found.usage.completion_tokens == 16


def test_a_stream_is_the_whole_text_in_pieces(client: OpenAI, assistant: Assistant, other: LanguageModel) -> None:
    stream = client.completions.create(model=ADAPTER, prompt="The parcel", max_tokens=9, temperature=0, stream=True)
    chunks = list(stream)
    assert "".join(chunk.choices[0].text for chunk in chunks) == continued(assistant, other, "The parcel", 9)
    assert chunks[-1].choices[0].finish_reason == "length"


def test_a_stop_token_has_an_entry_of_its_own_and_no_text(client: OpenAI, assistant: Assistant) -> None:
    settings: dict[str, Any] = {"model": BASE, "prompt": "The parcel", "max_tokens": 6, "temperature": 1.5, "seed": 3}
    settings["logprobs"] = 1
    prompt, drawn = assistant.tokenizer.encode("The parcel"), Sampling(max_new_tokens=6, temperature=1.5, seed=3)
    [tokens] = generate(assistant.model, [prompt], sampling=drawn, stop_ids=frozenset())
    free = client.completions.create(**settings, extra_body={"ignore_eos": True}).choices[0].logprobs
    assert free is not None
    assert free.tokens is not None
    stop = next(place for place in range(2, 6) if tokens[place] not in tokens[:place])
    text, more = assistant.tokenizer.decode(tokens[:stop]), {"stop_token_ids": [tokens[stop]]}
    for n in (1, 2):
        found = client.completions.create(**settings, n=n, extra_body=more)
        choice = found.choices[0]
        assert (choice.text, choice.finish_reason) == (text, "stop")
        assert choice.logprobs is not None
        for name, values in choice.logprobs.model_dump().items():
            assert values == getattr(free, name)[: stop + 1], name
        assert found.usage is not None
        entries = [one.logprobs.tokens for one in found.choices if one.logprobs and one.logprobs.tokens]
        assert found.usage.completion_tokens == sum(map(len, entries))
    chunks = [chunk.choices[0] for chunk in client.completions.create(**settings, stream=True, extra_body=more)]
    assert "".join(chunk.text for chunk in chunks) == text
    for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
        streamed = [value for chunk in chunks if chunk.logprobs for value in getattr(chunk.logprobs, name)]
        assert streamed == getattr(free, name)[: stop + 1], name
    first = {**more, "logit_bias": {str(tokens[stop]): 100}}  # the first token ends the answer
    for most in (0, 1):
        echoed = client.completions.create(**{**settings, "max_tokens": most}, echo=True, extra_body=first)
        logprobs = echoed.choices[0].logprobs
        assert logprobs is not None
        assert logprobs.token_logprobs is not None
        assert len(logprobs.token_logprobs) == len(prompt) + most
        assert echoed.choices[0].text == "The parcel"
        assert echoed.usage is not None
        assert echoed.usage.completion_tokens == most


def test_a_prompt_is_scored_as_lm_eval_asks(client: OpenAI, assistant: Assistant, other: LanguageModel) -> None:
    tokens = [assistant.tokenizer.encode(text) for text in ("The parcel is late", "user: blue crate")]
    for name, model in ((BASE, assistant.model), (ADAPTER, other)):
        found = client.completions.create(
            model=name, prompt=tokens, temperature=0, max_tokens=1, logprobs=1, echo=True, seed=1234
        )
        for prompt, choice in zip(tokens, found.choices, strict=True):
            logprobs = choice.logprobs
            assert logprobs is not None
            assert logprobs.token_logprobs is not None
            assert logprobs.top_logprobs is not None
            assert len(logprobs.token_logprobs) == len(prompt) + 1
            assert logprobs.token_logprobs[0] is None
            table = scores(model, prompt)
            want = [float(table[place, token]) for place, token in enumerate(prompt[1:])]
            assert logprobs.token_logprobs[1:-1] == pytest.approx(want, abs=1e-4)
            for place, (token, top) in enumerate(zip(prompt[1:], logprobs.top_logprobs[1:-1], strict=True)):
                likeliest = float(table[place].max())
                assert max(top.values()) == pytest.approx(likeliest, abs=1e-4)
                greedy = logprobs.token_logprobs[place + 1] == max(top.values())
                assert greedy == (int(table[place].argmax()) == token)


def test_the_prompt_alone_is_scored_with_no_new_token(client: OpenAI, assistant: Assistant) -> None:
    found = client.completions.create(model=BASE, prompt="The parcel", max_tokens=0, echo=True, logprobs=0)
    choice = found.choices[0]
    assert choice.text == "The parcel"
    assert choice.logprobs is not None
    assert choice.logprobs.tokens is not None
    assert "".join(choice.logprobs.tokens) == "The parcel"
    assert choice.logprobs.text_offset is not None
    assert choice.logprobs.text_offset[0] == 0
    assert found.usage is not None
    assert found.usage.completion_tokens == 0


def test_the_answers_to_a_prompt_have_its_scores_which_are_made_once(
    client: OpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored, settings = list[int | None](), {"model": BASE, "logprobs": 2, "echo": True, "max_tokens": 5}
    submit = EngineThread.submit

    def counted(engine: EngineThread, request: GenerationRequest, *, on_event: Any) -> GenerationHandle:
        scored.append(request.prompt_logprobs)
        return submit(engine, request, on_event=on_event)

    prompts: Any = ["größer", "The parcel"]
    monkeypatch.setattr(EngineThread, "submit", counted)
    together = client.completions.create(prompt=prompts, n=3, seed=4, **settings).choices
    assert scored == [2, None, None] * 2
    alone = [
        client.completions.create(prompt=prompt, seed=seed, **settings).choices[0]
        for prompt in prompts
        for seed in (4, 5, 6)
    ]
    assert [one.model_dump(exclude={"index"}) for one in together] == [
        one.model_dump(exclude={"index"}) for one in alone
    ]


def test_more_scores_than_an_answer_may_hold_are_refused_and_one_whole_prompt_never_is(assistant: Assistant) -> None:
    text = "The parcel is late. " * 3
    with serving(assistant, limits=ServerLimits(scores=1)) as (server, _):
        content = {"model": BASE, "prompt": [text] * 8, "max_tokens": 0, "echo": True, "logprobs": 20}
        status, _, refused = call(server, "POST", "/v1/completions", {**content, "n": 16})
        assert (status, refused["error"]["param"]) == (400, "echo")
        whole = [5] * (assistant.model.spec.max_positions - 1)
        assert call(server, "POST", "/v1/completions", {**content, "prompt": whole})[0] == 200


def test_a_text_is_echoed_as_it_was_sent_without_what_the_tokenizer_puts_before_it(
    assistant: Assistant, tiny_model: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_model, tmp_path / "begins")
    backend = Tokenizer.from_file(str(folder / "tokenizer.json"))
    begin = min(assistant.stop_ids)
    name = backend.id_to_token(begin)
    backend.post_processor = TemplateProcessing(single=f"{name} $A", special_tokens=[(name, begin)])
    backend.save(str(folder / "tokenizer.json"))
    text = "The parcel"
    with serving(tiny_assistant(folder)) as (server, _):
        asked = {
            "model": BASE,
            "prompt": text,
            "max_tokens": 2,
            "echo": True,
            "logprobs": 0,
            "n": 2,
            "seed": 0,
            "ignore_eos": True,
        }
        whole = call(server, "POST", "/v1/completions", asked)[2]["choices"]
        tokens = [begin, *assistant.tokenizer.encode(text)]
        by_tokens = call(server, "POST", "/v1/completions", {**asked, "prompt": tokens})[2]["choices"]
    for choice, other in zip(whole, by_tokens, strict=True):
        assert other["text"] == name + choice["text"]
        assert choice["text"].startswith(text)
        found = choice["logprobs"]
        assert found["tokens"] == other["logprobs"]["tokens"]
        assert (found["tokens"][0], found["token_logprobs"][0], found["text_offset"][:2]) == (name, None, [0, 0])
        assert found["text_offset"][len(tokens)] == len(text), "the answer begins where the prompt ends"
        assert other["logprobs"]["text_offset"][len(tokens)] == len(name + text)


@pytest.mark.parametrize("prompt", ["", [], [1, "a"], [10**6], [[1], "a", 7], 3, [True]])
def test_what_is_no_prompt_is_refused(client: OpenAI, prompt: object) -> None:
    with pytest.raises(openai.BadRequestError):
        client.completions.create(model=BASE, prompt=prompt, max_tokens=1)  # type: ignore[arg-type]
