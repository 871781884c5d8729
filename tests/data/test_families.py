"""The loss mask, the end of turns and the prompt in the chat format of each family, beside transformers' tokens."""

from __future__ import annotations

import dataclasses
from itertools import groupby

import pytest
import tokenizers

from helpers.texts import family_templates as ft
from veneer.data.encoded.chat import Encoder, template_of
from veneer.data.forms.record import Record
from veneer.errors import DataError
from veneer.io.tokenizer import finish

SYSTEM = {"role": "system", "content": "Be brief."}
TURNS = (
    {"role": "user", "content": "What is the capital of France?"},
    {"role": "assistant", "content": "The capital of France is Paris."},
    {"role": "user", "content": "And the parcel,\n\nwhere is it?"},
    {"role": "assistant", "content": "It is late:\n\n- two days"},
)


def conversations(name: str) -> list[tuple[dict[str, str], ...]]:
    return [TURNS[:2], TURNS, *([(SYSTEM, *TURNS)] if ft.FAMILIES[name].system else [])]


@pytest.mark.parametrize("name", ft.FAMILIES)
def test_the_answers_train_with_their_ends_and_nothing_else(name: str) -> None:
    family, tokenizer = ft.FAMILIES[name], ft.tokenizer(name)
    encoder = Encoder(tokenizer, template_of(tokenizer))
    for turns in conversations(name):
        example = encoder.encode(Record("f:1", turns))
        assert example.tokens.tolist() == ft.oracle(name).apply_chat_template(list(turns), return_dict=False)
        marked = zip(example.loss_mask.tolist(), example.tokens.tolist(), strict=True)
        spans = [[token for _, token in group] for trains, group in groupby(marked, lambda one: one[0]) if trains]
        answers = [turn["content"] for turn in turns if turn["role"] == "assistant"]
        closings = [family.closing] * (len(answers) - 1) + [family.closing if family.last is None else family.last]
        expected = [f"{family.before}{answer}{end}" for answer, end in zip(answers, closings, strict=True)]
        assert [tokenizer.decode(span, skip_special_tokens=False) for span in spans] == expected


@pytest.mark.parametrize("name", ft.FAMILIES)
def test_a_prompt_is_what_stands_before_the_answer_in_training(name: str) -> None:
    tokenizer = ft.tokenizer(name)
    encoder = Encoder(tokenizer, template_of(tokenizer))
    for turns in conversations(name):
        earlier = tuple(place for place, turn in enumerate(turns[:-1]) if turn["role"] == "assistant")
        example = encoder.encode(Record("f:1", turns, untrained=earlier))
        prompt = encoder.prompt_tokens(turns[:-1])
        assert example.tokens[: len(prompt)].tolist() == prompt
        assert example.loss_mask.argmax() == len(prompt), "the first token that is generated is the first that trains"


@pytest.mark.parametrize("name", ft.FAMILIES)
def test_the_end_of_a_turn_is_known_where_one_token_is_always_it(name: str) -> None:
    family, tokenizer = ft.FAMILIES[name], ft.tokenizer(name)
    encoder = Encoder(tokenizer, template_of(tokenizer))
    found = encoder.end_of_turn_id()
    if not family.end_token:
        assert found is None
        assert any("does not close every assistant turn" in note for note in encoder.notes())
        return
    assert found is not None
    assert tokenizer.decode([found], skip_special_tokens=False) == (family.stop or family.closing.strip())


@pytest.mark.parametrize("name", ft.FAMILIES)
def test_only_gpt_oss_names_a_channel_before_the_words_of_an_answer(name: str) -> None:
    tokenizer = ft.tokenizer(name)
    lead = Encoder(tokenizer, template_of(tokenizer)).lead
    expected = ft.FAMILIES[name].before if name.startswith("gpt-oss") else ""
    assert tokenizer.decode(lead, skip_special_tokens=False) == expected


# GLM 4.5: nothing closes a turn, and thoughts stand in the last one alone.
THOUGHTS_OF_THE_LAST = (
    "[gMASK]<sop>{% for m in messages %}{% if m.role == 'user' %}{{ '<|user|>\n' + m.content }}{% else %}"
    "{{ '<|assistant|>\n<think>' + (m.reasoning_content or '' if loop.last else '') + '</think>\n' + m.content }}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def test_turns_that_nothing_closes_end_where_the_next_question_begins_though_their_thoughts_are_left_out() -> None:
    tokenizer = dataclasses.replace(ft.tokenizer("glm4"), chat_template=THOUGHTS_OF_THE_LAST)
    turns = (
        {"role": "user", "content": "Which way?"},
        {"role": "assistant", "content": "Left.", "reasoning_content": "Look at the map."},
        {"role": "user", "content": "Sure?"},
        {"role": "assistant", "content": "Yes.", "reasoning_content": "I am."},
    )
    (trace,) = Encoder(tokenizer, template_of(tokenizer)).traces([Record("f:1", turns)])
    assert not isinstance(trace, DataError)
    said = [trace.text[start:end] for start, end in trace.spans]
    assert said == ["\n<think></think>\nLeft.", "\n<think>I am.</think>\nYes."]


# gpt-oss writes thoughts as a message of their own, as closed as the answer behind them.
THOUGHTS_APART = (
    "{% for m in messages %}{% if m.role == 'assistant' %}"
    "{% if m.thinking and KEPT %}{{ '<|start|>assistant<|channel|>analysis<|message|>' + m.thinking + '<|end|>' }}"
    "{% endif %}{{ '<|start|>assistant<|channel|>final<|message|>' + m.content }}"
    "{{ '<|return|>' if loop.last and not add_generation_prompt else '<|end|>' }}"
    "{% else %}{{ '<|start|>' + m.role + '<|message|>' + m.content + '<|end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant{% endif %}"
)


@pytest.mark.parametrize("kept", ["loop.last", "true"])
@pytest.mark.parametrize("turns", [1, 3, 12])
def test_an_answer_behind_thoughts_that_are_a_message_of_their_own_trains(kept: str, turns: int) -> None:
    template = THOUGHTS_APART.replace("KEPT", kept)
    tokenizer = dataclasses.replace(ft.tokenizer("gpt-oss"), chat_template=template)
    chat = [
        {"role": role, "content": f"{role} {turn}", **({"thinking": f"hm {turn}"} if role == "assistant" else {})}
        for turn in range(turns)
        for role in ("user", "assistant")
    ]
    (trace,) = Encoder(tokenizer, template_of(tokenizer)).traces([Record("f:1", tuple(chat))])
    assert not isinstance(trace, DataError)
    thoughts = "<|channel|>analysis<|message|>hm {0}<|end|><|start|>assistant"
    answer = "<|channel|>final<|message|>assistant {0}"
    last = turns - 1
    expected = [(thoughts if kept == "true" else "") + answer + "<|end|>"] * last + [thoughts + answer + "<|return|>"]
    assert [trace.text[start:end] for start, end in trace.spans] == [
        one.format(turn) for turn, one in enumerate(expected)
    ]


# The calls of gpt-oss: thoughts are left out once an answer has followed, and a call has a closing token of its own.
CALLS_APART = (
    "{% set last = namespace(answer=-1) %}{% for m in messages %}{% if m.role == 'assistant' and not m.tool_calls %}"
    "{% set last.answer = loop.index0 %}{% endif %}{% endfor %}{% for m in messages %}{% if m.role == 'assistant' %}"
    "{% set thoughts = m.thinking or (m.content if m.tool_calls) %}{% if thoughts and loop.index0 >= last.answer %}"
    "{{ '<|start|>assistant<|channel|>analysis<|message|>' + thoughts + '<|end|>' }}{% endif %}"
    "{% if m.tool_calls %}{{ '<|start|>assistant to=' + m.tool_calls[0].function.name + '<|message|>{}<|call|>' }}"
    "{% else %}{{ '<|start|>assistant<|channel|>final<|message|>' + m.content }}"
    "{{ '<|return|>' if loop.last and not add_generation_prompt else '<|end|>' }}{% endif %}"
    "{% else %}{{ '<|start|>' + m.role + '<|message|>' + m.content + '<|end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant{% endif %}"
)


@pytest.mark.parametrize("said", [{"content": ""}, {"content": "I look."}, {"content": "", "thinking": "hm"}])
@pytest.mark.parametrize("thinking", [None, "ok"])
@pytest.mark.parametrize("questions", [1, 2])
def test_a_call_whose_thoughts_are_left_out_ends_before_its_result(
    said: dict[str, str], thinking: str | None, questions: int
) -> None:
    backend = tokenizers.Tokenizer.from_str(ft.backend("gpt-oss").to_str())
    backend.add_special_tokens(["<|call|>"])
    tokenizer = finish(backend, {"eos_token": "<|return|>"}, {"default": CALLS_APART}, {})
    call = {"role": "assistant", **said, "tool_calls": [{"type": "function", "function": {"name": "f"}}]}
    answer = {"role": "assistant", "content": "Here.", "thinking": thinking}
    question = ({"role": "user", "content": "Where?"}, call, {"role": "tool", "content": "Here."}, answer)
    (trace,) = Encoder(tokenizer, template_of(tokenizer)).traces([Record("f:1", question * questions)])
    assert not isinstance(trace, DataError)
    thoughts = "<|channel|>analysis<|message|>ok<|end|><|start|>assistant" if thinking else ""
    called, final = " to=f<|message|>{}<|call|>", "<|channel|>final<|message|>Here."
    expected = [called, f"{final}<|end|>"] * (questions - 1) + [called, f"{thoughts}{final}<|return|>"]
    assert [trace.text[start:end] for start, end in trace.spans] == expected


def test_there_are_formats_of_thirty_families_and_more() -> None:
    from helpers.texts import chat_templates as ct

    assert len(ft.FAMILIES.keys() | ct.TEMPLATES.keys()) >= 30
