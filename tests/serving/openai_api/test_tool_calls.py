"""Calls of tools: read from what models write, forced by a grammar, streamed, and left as text where they are none."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

import openai
import pytest
import torch
from openai import OpenAI

from helpers.models.tiny import write_model
from helpers.servers.served import BASE, call, serving, tiny_assistant
from veneer.assistant.assistant import Assistant
from veneer.http_server.errors import ApiError
from veneer.http_server.fields import Fields
from veneer.http_server.server import HttpServer
from veneer.serving.grammar import Grammar, Grammars
from veneer.serving.openai_api.tool_calls import CallScanner, ToolCall, ToolUse, read_calls, read_tools

WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Bonn", "Köln"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
PARCEL: dict[str, Any] = {"type": "function", "function": {"name": "parcel"}}
USE = ToolUse((WEATHER, PARCEL))
TEMPLATE = (
    "{% if tools %}<|im_start|>system\n{{ tools | tojson }}<|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}"
    "{% for call in message.tool_calls or [] %}<tool_call>{{ call.function | tojson }}</tool_call>{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CALL = '{"name": "weather", "arguments": {"city": "Bonn"}}'
ENDLESS = '{"name": "weather", "arguments": {"city": [1e999]}}'
CASES = [
    ('<tool_call>\n{"name": "weather", "arguments": {"city": "Bonn"}}\n</tool_call>', "", 1),
    ('I look.\n<tool_call>{"name": "parcel", "arguments": {}}</tool_call>', "I look.", 1),
    (
        '<tool_call>{"name": "parcel", "arguments": {}}</tool_call>\n<tool_call>{"name": "weather", "arguments": {}}',
        "",
        2,
    ),
    ('{"name": "weather", "parameters": {"city": "Bonn"}}', "", 1),
    ('[TOOL_CALLS][{"name": "weather", "arguments": {}}, {"name": "parcel", "arguments": {}}]', "", 2),
    ('{"name": "unknown", "arguments": {}}', '{"name": "unknown", "arguments": {}}', 0),
    ('{"answer": 7}', '{"answer": 7}', 0),
    ("<tool_call>not JSON</tool_call>", "<tool_call>not JSON</tool_call>", 0),
    ("It rains < often > in Bonn.", "It rains < often > in Bonn.", 0),
    ("", "", 0),
    ('<tool_call>{"name": "weather", "arguments": {"city": "</tool_call>"}}</tool_call>', "", 1),
    (f"<think>\nuse <tool_call>?</think>\n<tool_call>{CALL}</tool_call>", "<think>\nuse <tool_call>?</think>", 1),
    (f"First.\n<tool_call>{CALL}</tool_call>\nthen\n<tool_call>{CALL}</tool_call> after\n", "First.\nthen after", 2),
    ('<tool_call>{"name": "parcel"}</tool_call>', "", 1),
    (
        '<tool_call>{"name": "parcel", "args": {}}</tool_call>',
        '<tool_call>{"name": "parcel", "args": {}}</tool_call>',
        0,
    ),
    ('{"name": "parcel"}', '{"name": "parcel"}', 0),
    ('{"name": ["parcel"], "arguments": {}}', '{"name": ["parcel"], "arguments": {}}', 0),
    (f"<tool_call>{CALL} and</tool_call>", f"<tool_call>{CALL} and</tool_call>", 0),
    (f"The tag <tool_call> is there. {CALL}", f"The tag <tool_call> is there. {CALL}", 0),
    ('{"name": "weather", "arguments": {"city": "<tool_call>{"}}', "", 1),
    (f' [ \n{CALL}, {{"id": "1", "name": "parcel", "arguments": {{}}}}]', "", 2),
    ("[1] Bonn is a city.", "[1] Bonn is a city.", 0),
    *((text, text, 0) for text in (ENDLESS, f"<tool_call>{ENDLESS}</tool_call>", f"[{CALL}, {ENDLESS}]")),
]


@pytest.mark.parametrize(("text", "content", "calls"), CASES)
def test_calls_are_read_and_everything_else_stays_text(text: str, content: str, calls: int) -> None:
    found, made = read_calls(text, USE)
    assert (found, len(made)) == (content, calls)
    alone = read_calls(text, ToolUse(USE.tools, parallel=False))[1]
    assert alone == made[:1]


@pytest.mark.parametrize(("text", "content", "calls"), CASES)
def test_a_stream_in_any_pieces_sends_the_text_before_calls_and_holds_them_back(
    text: str, content: str, calls: int
) -> None:
    source = random.Random(text)
    for _ in range(50):
        scanner, sent, start = CallScanner(), "", 0
        while start < len(text):
            size = source.randint(1, 9)
            sent += scanner.push(text[start : start + size])
            start += size
        rest, made = read_calls(scanner.finish(), USE)
        assert (sent + rest, len(made)) == (content, calls)


@pytest.mark.parametrize(
    "text",
    ["[1] Bonn is a city", "[Bonn](https://bonn.example) is", "[ ] to do", "{x} is a set", '{"answer": "rain"}',
     "[TOOL_BOX] is", "The tag <tool_call> is"],
)  # fmt: skip
def test_a_stream_sends_what_can_be_no_call_as_it_comes(text: str) -> None:
    scanner = CallScanner()
    assert "".join(map(scanner.push, text)) == text


@pytest.mark.parametrize("text", ["[TOOL_CALLS] [", ' {"na', '[{"type"', "Look: <tool_call>\n", "Look: <tool_call>["])
def test_a_stream_holds_back_what_may_become_a_call(text: str) -> None:
    scanner = CallScanner()
    assert "".join(map(scanner.push, text)) in ("", "Look:")


def test_the_arguments_are_a_string_of_json() -> None:
    content = ToolCall("weather", {"city": "Köln"}).content(1)
    assert content["index"] == 1
    assert json.loads(content["function"]["arguments"]) == {"city": "Köln"}
    assert content["id"] != ToolCall("weather", {}).content(1)["id"]


def chosen(choice: Any) -> ToolUse:
    return read_tools(Fields({"tools": [WEATHER, PARCEL], "tool_choice": choice}))


def test_choices_say_which_tools_may_and_must_be_called() -> None:
    assert chosen("auto") == chosen(None) == USE
    assert chosen("none").tools == ()
    assert chosen("required").forced == ("weather", "parcel")
    assert chosen({"type": "function", "function": {"name": "parcel"}}).forced == ("parcel",)
    allowed = {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [PARCEL]}}
    assert chosen(allowed) == ToolUse((PARCEL,))
    allowed["allowed_tools"]["mode"] = "required"  # type: ignore[index]
    assert chosen(allowed) == ToolUse((PARCEL,), ("parcel",))


@pytest.mark.parametrize(
    "choice",
    ["any", 7, {}, {"type": "function"}, {"type": "function", "function": {"name": "none"}},
     {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [{"type": "function"}]}}],
)  # fmt: skip
def test_choices_that_are_none_are_refused(choice: Any) -> None:
    with pytest.raises(ApiError, match="tool_choice"):
        chosen(choice)


@pytest.mark.parametrize(
    "tools",
    ["weather", [1], [{}], [{"type": "function", "function": {"name": "a b"}}], [WEATHER, WEATHER],
     [{"type": "function", "function": {"name": "a", "parameters": 1}}], [{"type": "retrieval"}]],
)  # fmt: skip
def test_tools_that_are_none_are_refused(tools: Any) -> None:
    with pytest.raises(ApiError, match="tools"):
        read_tools(Fields({"tools": tools}))


def test_tools_are_counted_before_they_are_read() -> None:
    with pytest.raises(ApiError, match="100,000 tools; at most 128"):
        read_tools(Fields({"tools": [None] * 100_000}))


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpServer]:
    """A server of a model whose template writes tools."""
    path = write_model(tmp_path_factory.mktemp("calling"))
    settings = json.loads((path / "tokenizer_config.json").read_text())
    (path / "tokenizer_config.json").write_text(json.dumps({**settings, "chat_template": TEMPLATE}))
    with serving(tiny_assistant(path)) as (server, _):
        yield server


@pytest.fixture(scope="module")
def calling(taught: HttpServer) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{taught.url}/v1", api_key="-") as client:
        yield client


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "weather"}}])
def test_a_forced_call_is_made_whatever_the_model_would_have_said(calling: OpenAI, stream: bool, choice: Any) -> None:
    tools: Any = [WEATHER]
    settings: Any = {"model": BASE, "messages": [{"role": "user", "content": "Bonn?"}], "tools": tools, "seed": 3,
                     "tool_choice": choice, "max_tokens": 260}  # fmt: skip
    if stream:
        chunks = [chunk.choices[0] for chunk in calling.chat.completions.create(stream=True, **settings)]
        calls = [call for chunk in chunks for call in chunk.delta.tool_calls or []]
        assert not "".join(chunk.delta.content or "" for chunk in chunks)
        reason = chunks[-1].finish_reason
    else:
        answer = calling.chat.completions.create(**settings).choices[0]
        calls, reason = answer.message.tool_calls, answer.finish_reason
        assert answer.message.content is None
    assert reason == "tool_calls"
    (call,) = calls
    assert call.function.name == "weather"
    assert json.loads(call.function.arguments)["city"] in ("Bonn", "Köln")


@pytest.mark.parametrize("stream", [False, True])
def test_a_forced_call_that_is_cut_is_a_call_as_far_as_it_came_and_no_text(calling: OpenAI, stream: bool) -> None:
    settings: Any = {"model": BASE, "messages": [{"role": "user", "content": "Bonn?"}], "tools": [WEATHER], "seed": 3,
                     "tool_choice": "required", "stop": ["n", "{", "weather"]}  # fmt: skip
    whole = calling.chat.completions.create(max_tokens=260, **settings)
    assert whole.choices[0].finish_reason == "tool_calls"
    assert whole.usage is not None
    for most in (4, whole.usage.completion_tokens - 6):
        asked = {**settings, "max_tokens": most}
        if stream:
            chunks = [one.choices[0] for one in calling.chat.completions.create(stream=True, **asked)]
            calls: Any = [call for one in chunks for call in one.delta.tool_calls or []]
            text, reason = "".join(one.delta.content or "" for one in chunks), chunks[-1].finish_reason
        else:
            answer = calling.chat.completions.create(**asked).choices[0]
            calls, text, reason = answer.message.tool_calls or [], answer.message.content, answer.finish_reason
        assert (text or None, reason) == (None, "length")
        assert [call.function.name for call in calls] == ([] if most == 4 else ["weather"])
        assert all(call.function.arguments.startswith("{") for call in calls)


@pytest.mark.parametrize(
    ("text", "cut"),
    [
        ("", None), ('{\n "na', None), ('{"name": "wea', None), ('{"name": "weather"', ""),
        ('{"name": "weather",\n"argum', ""), ('{"name": "weather", "arguments": {"city": "Bo', '{"city": "Bo'),
        ('{"name": "weather", "arguments": {"city": "Bonn"}', '{"city": "Bonn"}'),
    ],
)  # fmt: skip
def test_the_beginning_of_a_forced_call_is_read(text: str, cut: str | None) -> None:
    found = read_calls(text, ToolUse((WEATHER,), ("weather",)))
    assert found == ("", () if cut is None else (ToolCall("weather", {}, cut),))
    assert read_calls(text, ToolUse((WEATHER,))) == (text, ())


def test_a_call_is_forced_on_ollamas_route_too(taught: HttpServer) -> None:
    content = {"model": BASE, "messages": [{"role": "user", "content": "Bonn?"}], "tools": [WEATHER], "stream": False,
               "tool_choice": "required", "options": {"seed": 3, "num_predict": 260}}  # fmt: skip
    status, _, answer = call(taught, "POST", "/api/chat", content)
    assert status == 200
    assert [one["function"]["name"] for one in answer["message"]["tool_calls"]] == ["weather"]
    assert call(taught, "POST", "/api/chat", {**content, "format": "json"})[0] == 400
    cut = call(taught, "POST", "/api/chat", {**content, "options": {"seed": 3, "num_predict": 40, "stop": ["n"]}})[2]
    assert (cut["message"], cut["done_reason"]) == ({"role": "assistant", "content": ""}, "length")


@pytest.mark.parametrize(
    "named", [[{}, {}], [{"$id": "x"}, {"$id": "y"}], [{"$id": "x"}, {"$id": "x"}], [{"type": "string"}, {}]]
)
def test_a_forced_call_may_refer_to_definitions_of_its_own_tool(
    assistant: Assistant, named: list[dict[str, str]]
) -> None:
    def tool(name: str, words: list[str], more: dict[str, str]) -> dict[str, Any]:
        parameters = {
            "$defs": {"Word": {"enum": words}},
            "type": "object",
            "properties": {"word": {"$ref": "#/$defs/Word"}},
            "required": ["word"],
            "additionalProperties": False,
        }
        return {"type": "function", "function": {"name": name, "parameters": {**parameters, **more}}}

    spec = assistant.model.spec
    grammars = Grammars(assistant.tokenizer, spec.vocab_size, assistant.stop_ids, 10_000)
    use = ToolUse((tool("a", ["x"], named[0]), tool("b", ["y"], named[1])), ("a", "b"))
    calls = [(name, word) for name in ("a", "b") for word in ("x", "y")]
    texts = [f'{{"name": "{name}", "arguments": {{"word": "{word}"}}}}' for name, word in calls]
    allowed = [allows(grammars.of_schema(use.schema(), "tools"), assistant, text) for text in texts]
    assert allowed == [True, False, False, True]


@pytest.mark.parametrize("parallel", [True, False])
def test_beside_a_schema_the_model_may_call_or_answer_by_it(assistant: Assistant, parallel: bool) -> None:
    schema = {"$defs": {"n": {"type": "integer"}}, "type": "object", "properties": {"k": {"$ref": "#/$defs/n"}},
              "required": ["k"], "additionalProperties": False}  # fmt: skip
    grammars = Grammars(assistant.tokenizer, assistant.model.spec.vocab_size, assistant.stop_ids, 10_000)
    grammar = grammars.of_schema(schema, "response_format", ToolUse(USE.tools, parallel=parallel).around_answer())
    tagged = f"<tool_call>\n{CALL}\n</tool_call>"
    llama = CALL.replace("arguments", "parameters")
    for text in ('{"k": 3}', CALL, llama, tagged):
        assert allows(grammar.copy(), assistant, text), text
    for text in (f"{tagged}\n<tool_call>{llama}", f"[{CALL}, {llama}]"):
        assert allows(grammar.copy(), assistant, text) == parallel, text
    for text in ("Bonn", '{"k": "a"}', CALL.replace("weather", "other"), "<tool_call>Bonn"):
        assert not allows(grammar.copy(), assistant, text), text


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/api/chat"])
def test_an_answer_beside_tools_has_its_schema_or_is_a_call(taught: HttpServer, path: str) -> None:
    schema = {"type": "object", "properties": {"k": {"enum": [1, 2]}}, "required": ["k"], "additionalProperties": False}
    content = {"model": BASE, "messages": [{"role": "user", "content": "Bonn?"}], "tools": [PARCEL], "stream": False}
    form = {"type": "json_schema", "json_schema": {"name": "k", "schema": schema}}
    if path == "/api/chat":
        status, _, answer = call(taught, "POST", path, {**content, "format": schema, "options": {"seed": 3}})
        message = answer["message"]
    else:
        status, _, answer = call(taught, "POST", path, {**content, "response_format": form, "seed": 3})
        message = answer["choices"][0]["message"]
    assert status == 200
    assert message.get("tool_calls") or json.loads(message["content"])["k"] in (1, 2)


def allows(grammar: Grammar, assistant: Assistant, text: str) -> bool:
    """Whether an answer may begin with a text."""
    for token in assistant.tokenizer.encode(text):
        scores = torch.zeros(assistant.model.spec.vocab_size)
        grammar.restrict(scores)
        if scores[token] != 0:
            return False
        grammar.accept(token)
    return True


def test_a_conversation_with_calls_and_results_goes_on(calling: OpenAI) -> None:
    messages: Any = [
        {"role": "user", "content": "Bonn?"},
        {"role": "assistant", "content": None, "tool_calls": [
            {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Bonn"}'}}]},
        {"role": "tool", "tool_call_id": "call_1", "content": "rain"},
    ]  # fmt: skip
    tools: Any = [WEATHER]
    answer = calling.chat.completions.create(model=BASE, messages=messages, tools=tools, max_tokens=4, temperature=0)
    assert answer.usage is not None
    fewer = calling.chat.completions.create(model=BASE, messages=messages, max_tokens=4, temperature=0)
    assert fewer.usage is not None
    assert answer.usage.prompt_tokens > fewer.usage.prompt_tokens


def test_a_template_that_would_drop_tools_is_refused(client: OpenAI) -> None:
    tools: Any = [WEATHER]
    with pytest.raises(openai.BadRequestError, match="ignores tools"):
        client.chat.completions.create(model=BASE, messages=[{"role": "user", "content": "a"}], tools=tools)


def test_a_template_that_would_drop_calls_is_refused(client: OpenAI) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    messages: Any = [{"role": "user", "content": "a"}, {"role": "assistant", "content": None, "tool_calls": [call]}]
    with pytest.raises(openai.BadRequestError, match="ignores tool calls"):
        client.chat.completions.create(model=BASE, messages=messages, max_tokens=1)


def test_tools_may_be_there_and_not_called(client: OpenAI) -> None:
    tools: Any = [WEATHER]
    answer = client.chat.completions.create(
        model=BASE, messages=[{"role": "user", "content": "a"}], tools=tools, tool_choice="none", max_tokens=1
    )
    assert answer.choices[0].message.tool_calls is None
