from __future__ import annotations

import time
import tracemalloc

import pytest

from veneer.data.template import ChatTemplate
from veneer.errors import DataError

NEST = "{% set ns = namespace(s=['ab']) %}{% for i in range(40) %}{% set ns.s = [ns.s, ns.s] %}{% endfor %}"
HOSTILE = [
    "{{ ''.__class__.__mro__ }}",
    "{{ ''['__class__'].mro }}",
    "{{ messages.__init__.__globals__ }}",
    "{{ ('' | attr('__class__')).mro() }}",
    "{{ '{0.__class__.mro}'.format(1) }}",
    "{% for i in range(10**9) %}{% endfor %}",
    "{{ 'a' * 10**9 }}",
    "{{ 10**9 * 'a' }}",
    "{{ [0] * 10**9 }}",
    "{{ 'a'.encode() * 10**9 }}",
    "{{ 10 ** (10 ** 8) }}",
    "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
    "{% for i in range(99999) %}{{ 'a' * 10000 }}{% endfor %}",
    "{% set ns = namespace(s='ab') %}{% for i in range(40) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
    "{% set ns = namespace(s='ab') %}{% for i in range(40) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
    "{% set ns = namespace(s='a') %}{% for i in range(40) %}{% set ns.s %}{{ ns.s }}{{ ns.s }}{% endset %}{% endfor %}",
    "{% macro d(x) %}{{ x }}{{ x }}{% endmacro %}{% macro e(x) %}{{ d(d(d(d(d(d(d(d(x)))))))) }}{% endmacro %}"
    "{{ e(e(e(e('a')))) }}",
    NEST + "{{ ns.s }}",
    NEST + "{{ ns.s | tojson }}",
    NEST + "{{ 'x' ~ ns.s }}",
    NEST + "{{ '%s' % ns.s }}",
    NEST + "{{ '{}'.format(ns.s) }}",
    NEST + "{{ ns.s | string }}",
    "{{ 'a' | center(10**9) }}",
    "{{ 'a'.ljust(10**9) }}",
    "{{ '%0999999999d' % 1 }}",
    "{{ '%09999999d' | format(1) }}",
    "{{ '{:>999999999}'.format(1) }}",
    "{{ ('a' * 1000000).replace('a', 'b' * 1000) }}",
    "{{ ('a' * 1000000) | replace('a', 'b' * 1000) }}",
    "{{ ('a' * 1000000) | join('b' * 1000) }}",
    "{{ ('b' * 1000).join('a' * 1000000) }}",
    "{{ ('a\n' * 1000000) | indent('b' * 1000) }}",
    "{{ [1] | tojson(indent=1000) }}",
    "{{ ('a' * 1000000) | list }}",
    "{{ (' a' * 4000000).split() }}",
    "{{ ('a' * 5000000) ~ ('b' * 6000000) }}{{ 'c' * 9000000 }}",
    "{{ 'a\t'.expandtabs(100000) }}",
    "{{ lipsum(n=10000) }}",
]


@pytest.mark.parametrize("source", HOSTILE)
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
