from __future__ import annotations

import time
import tracemalloc

import pytest

from helpers.texts.chat_templates import TEMPLATES
from helpers.texts.family_templates import FAMILIES
from helpers.texts.hostile_templates import COUNTED
from veneer.data.templates.template import ChatTemplate
from veneer.errors import DataError


@pytest.mark.scenario(number=33)
@pytest.mark.parametrize("source", COUNTED)
def test_hostile_templates_are_stopped_within_a_second_and_50_mb(source: str) -> None:
    messages = [{"role": "user", "content": "hello"}]
    ChatTemplate("{{ messages }}").render(messages)  # imports and caches are not the template's
    start = time.process_time()  # of this process alone, however busy the machine is
    with pytest.raises(DataError):
        ChatTemplate(source).render(messages)
    assert time.process_time() - start < 2.0  # one second, and as much for a slow machine
    tracemalloc.start()
    try:
        if "range(100000)" not in source and "range(40)" not in source:  # slow under tracemalloc
            with pytest.raises(DataError):
                ChatTemplate(source).render(messages)
            assert tracemalloc.get_traced_memory()[1] < 50e6
    finally:
        tracemalloc.stop()


def test_large_honest_inputs_pass() -> None:
    text = "word and word\n" * 750_000  # 10 MB
    template = ChatTemplate(
        "{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}{{ m.content.split('\n') | length }}</>{% endfor %}"
    )
    messages = [{"role": "user", "content": text}]
    assert template.render(messages) == f"<user>{text.strip()}750001</>"
    many = [{"role": "user", "content": "x"}] * 20_000
    assert len(template.render(many)) == 20_000 * len("<user>x1</>")


SPEAKERS = ("user", "assistant")
SOURCES = TEMPLATES | {name: family.template for name, family in FAMILIES.items()}


@pytest.mark.parametrize("name", SOURCES)
def test_long_conversations_are_within_the_work_of_honest_templates(name: str) -> None:
    """Templates ask for the length of all messages, or for those of one role, in every pass over them."""
    turns = [{"role": role, "content": f"{number} " + "word " * 200} for number in range(250) for role in SPEAKERS]
    system = [{"role": "system", "content": "Be brief."}] if name == "mistral_system_last" else []
    text = ChatTemplate(SOURCES[name], bos_token="<s>", eos_token="</s>").render([*system, *turns])
    assert text.count("word ") >= len(turns) * 199


@pytest.mark.parametrize("wanted", ["length", "count", "first", "last", "default([])"])
def test_filters_that_read_no_items_cost_one_step_whatever_is_in_their_list(wanted: str) -> None:
    template = ChatTemplate(f"{{% for i in range(100000) %}}{{% set x = messages | {wanted} %}}{{% endfor %}}")
    assert template.render([{"role": "user", "content": "word " * 100_000}] * 3) == ""


@pytest.mark.parametrize("wanted", ["list", "reverse", "selectattr('a')", "string", "tojson", "sort", "map('length')"])
def test_filters_that_read_the_items_cost_more_with_more_of_them(wanted: str) -> None:
    source = f"{{% set l = [1] * 100000 %}}{{% for i in range(1000) %}}{{% set x = l | {wanted} %}}{{% endfor %}}"
    with pytest.raises(DataError, match="too much work"):
        ChatTemplate(source).render([{"role": "user", "content": "hello"}])
