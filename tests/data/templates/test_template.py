# ruff: noqa: E501
from __future__ import annotations

from datetime import datetime

import pytest

from helpers.texts import chat_templates as ct
from veneer.data.encoded.chat import template_of
from veneer.data.templates.template import ChatTemplate
from veneer.errors import DataError

USER = {"role": "user", "content": "What is the capital of France? é <b>&</b>"}
ANSWER = {"role": "assistant", "content": "Paris. 🗼"}
CHATS = {
    "one turn": [USER, ANSWER],
    "prompt": [USER],
    "two turns": [
        USER,
        ANSWER,
        {"role": "user", "content": "  And Spain?\n"},
        {"role": "assistant", "content": " Madrid "},
    ],
    "system": [{"role": "system", "content": "Be brief."}, USER, ANSWER],
    "thoughts": [USER, {"role": "assistant", "content": "<think>\nhm\n</think>\n\nParis"}, USER, ANSWER],
    "reasoning": [USER, {"role": "assistant", "content": "Paris", "reasoning_content": "It is in France."}],
    "thinking": [USER, {"role": "assistant", "content": "Paris", "thinking": "It is in France.", "name": None}],
    "tools": [
        USER,
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"type": "function", "function": {"name": "look", "arguments": {"q": "<é>", "n": 1}}}],
        },
        {"role": "tool", "content": '{"found": "Paris"}', "name": "look"},
        ANSWER,
    ],
}
TOOLS = [{"type": "function", "function": {"name": "look", "description": "Looks <things> up", "parameters": {}}}]
PARTLY = {("gemma", "system"), ("gemma", "tools"), ("mistral", "system"), ("mistral", "tools")}


@pytest.mark.parametrize("generation", [False, True])
@pytest.mark.parametrize("chat", CHATS)
@pytest.mark.parametrize("name", ct.TEMPLATES)
def test_renders_as_transformers_does(name: str, chat: str, generation: bool) -> None:
    template = template_of(ct.tokenizer(name))
    assert template is not None
    tools = TOOLS if chat == "tools" else None
    refused = None
    try:
        expected = ct.oracle(name).apply_chat_template(
            CHATS[chat], tokenize=False, add_generation_prompt=generation, tools=tools
        )
    except Exception as error:
        refused = str(error)
    if refused is not None:
        assert (name, chat) in PARTLY
        with pytest.raises(DataError) as own:
            template.render(CHATS[chat], add_generation_prompt=generation, tools=tools)
        assert refused in str(own.value)
        return
    assert template.render(CHATS[chat], add_generation_prompt=generation, tools=tools) == expected


FEATURES = {
    "trim_blocks": "{% if true %}\n  a\n{% endif %}\nb\n",
    "lstrip_blocks": "   {% if true %}x{% endif %}\n   {# note #}\ny",
    "break": "{% for m in messages %}{% if loop.index > 1 %}{% break %}{% endif %}{{ m.content }}{% endfor %}",
    "continue": "{% for m in messages %}{% if m.role == 'user' %}{% continue %}{% endif %}{{ m.content }}{% endfor %}",
    "loop variables": "{% for m in messages %}{{ loop.index }}/{{ loop.length }}{{ loop.last }}{{ loop.revindex0 }}"
    "{{ loop.previtem.role if loop.previtem is defined }}{% else %}none{% endfor %}",
    "filtered loop": "{% for m in messages if m.role == 'user' %}{{ loop.index }}{{ loop.length }}{{ m.content }}{% endfor %}",
    "dict loop": "{% for k, v in messages[0].items() %}{{ k }}={{ v }};{% endfor %}",
    "macro": "{% macro f(m, n=2) %}{{ m.role * n }}{% endmacro %}{{ f(messages[0]) ~ f(messages[1], n=1) }}",
    "set block": "{% set x %} {{ messages[0].role }} {% endset %}[{{ x }}]{% set y | upper %}a{% endset %}{{ y }}",
    "filter block": "{% filter upper %}abc{{ messages[0].role }}{% endfilter %}",
    "namespace": "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}",
    "slices": "{{ messages[1:] | length }}{{ messages[::-1][0].role }}{{ messages[-1]['content'][:3] }}",
    "tojson": "{{ {'é': '<a&b>', 'n': [1, none, true, 1.5]} | tojson }}{{ [1] | tojson(indent=2) }}"
    "{{ {'b': 1, 'a': 2} | tojson(sort_keys=true, separators=(',', ':')) }}{{ 'é' | tojson(ensure_ascii=true) }}",
    "filters": "{{ messages | map(attribute='role') | join(', ') }}{{ messages | selectattr('role', 'equalto', 'user') "
    "| list | length }}{{ ' a ' | trim }}{{ 'ab' | replace('a', 'c') }}{{ none | default('d', true) }}{{ 'a' | indent(2) }}"
    "{{ messages | groupby('role') | length }}{{ [3, 1] | sort }}{{ 'x' | string | length }}{{ [1, 2] | sum }}",
    "tests": "{{ messages is sequence }}{{ x is defined }}{{ messages[0] is mapping }}{{ 'a' is string }}{{ x is undefined }}",
    "methods": "{{ 'a,b'.split(',')[1] }}{{ 'abc'.startswith('a') }}{{ '-'.join(['a', 'b']) }}{{ ' x '.strip() }}"
    "{{ 'a'.replace('a', 'b') }}{{ messages[0].get('nothing', 'e') }}{{ '{} {:>3}'.format('a', 1) }}{{ '%s-%03d' % ('a', 7) }}",
    "arithmetic": "{{ 7 // 2 }}{{ 7 % 2 }}{{ 2 ** 8 }}{{ 1 - 2 }}{{ 3 / 2 }}{{ 'ab' * 2 }}{{ [1] + [2] }}",
    "special variables": "[{{ bos_token }}|{{ eos_token }}|{{ pad_token }}|{{ unk_token }}]",
    "undefined": "[{{ nothing }}{{ messages[0].nothing }}{{ tools }}{{ documents }}]",
    "generation": "{% set a = 1 %}{% generation %}{{ a }}{% set a = 2 %}\n{% endgeneration %}\n{{ a }}",
    "range": "{% for i in range(3) %}{{ i }}{% endfor %}{{ range(2) | list }}",
    "recursive loop": "{% for x in [[1, [2]], [3]] recursive %}{{ loop(x) if x is iterable else x }}{% endfor %}",
    "call block": "{% macro w() %}<{{ caller() }}>{% endmacro %}{% call w() %}in{% endcall %}",
}


@pytest.mark.parametrize("feature", FEATURES)
def test_jinja_features_as_transformers(feature: str) -> None:
    oracle = ct.oracle("chatml")
    chat = CHATS["two turns"]
    expected = oracle.apply_chat_template(chat, chat_template=FEATURES[feature], tokenize=False)
    bos, eos = ct.BOS_EOS["chatml"]
    assert ChatTemplate(FEATURES[feature], bos_token=bos, eos_token=eos).render(chat) == expected


def test_strftime_now_can_be_fixed() -> None:
    template = ChatTemplate("{{ strftime_now('%d %b %Y') }}", now=datetime(2024, 7, 26))
    assert template.render([]) == "26 Jul 2024"
    assert ChatTemplate("{{ strftime_now('%Y') }}").render([]) == str(datetime.now().year)


def test_the_generation_tag_marks_the_answers() -> None:
    template = ChatTemplate(ct.GENERATION)
    assert template.marks_generation
    rendered = template.render_spans(CHATS["two turns"])
    assert [rendered.text[a:b] for a, b in rendered.spans] == ["Paris. 🗼<|im_end|>", " Madrid <|im_end|>"]
    assert not ChatTemplate("{# {% generation %} #}x").marks_generation


def test_the_template_cannot_change_the_messages() -> None:
    with pytest.raises(DataError, match="unsafe"):
        ChatTemplate("{{ messages.append(1) }}").render([USER])


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("{% if %}", r"not valid Jinja: .* \(line 1\)"),
        ("a\n{{ 'b' | nosuchfilter }}", r"No filter named 'nosuchfilter'"),
        ("{{ raise_exception('only two roles') }}", "refused the conversation: only two roles"),
        ("{{ nothing.at.all }}", "'nothing' is undefined"),
        ("{{ 1 + 'a' }}", "TypeError"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("{{ 'a'.index('z') }}", "ValueError"),
        ("{% macro r() %}{{ r() }}{% endmacro %}{{ r() }}", "RecursionError"),
        ("{% include 'other' %}", "failed|refused"),
        (r"{{ '\ud800' }}", "writes a lone surrogate"),
        (r"{{ '\ud83d' ~ '\ude00' }}", "writes a lone surrogate"),
        ("{{ raise_exception }}", r"prints an object, '<function _raise_exception at 0x[0-9a-f]+>', whose address"),
        ("{{ strftime_now }}", "prints an object"),
        ("{{ messages | map(attribute='role') }}", "prints an object, '<generator object .*write `| list` after"),
        ("{{ 'a'.upper | upper }}", "prints an object"),
        ("{{ '%s' | format(range) }}{{ [joiner()] | join }}", "prints an object"),
        ("{{ messages[0].content }}{{ cycler('a') }}", "prints an object"),
    ],
)
def test_what_a_template_gets_wrong_is_a_data_error(source: str, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        ChatTemplate(source).render([USER])


def test_an_address_that_a_message_or_the_template_names_is_text() -> None:
    said = "What is <function f at 0x7f12ABcd90> in Python?"
    template = ChatTemplate("{{ messages[0].content | upper }}<x at 0x1234567>{{ tools | tojson }}")
    text = template.render([USER | {"content": said}], tools=[{"about": "<y at 0xABCDEF1>"}])
    assert text == f'{said.upper()}<x at 0x1234567>[{{"about": "<y at 0xABCDEF1>"}}]'
