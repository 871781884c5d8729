# ruff: noqa: E501
"""Chat templates that try to use up time or memory, to reach Python, or to write to the terminal.

`COUNTED` are stopped by the counts of sandbox.py; `UNCOUNTED` do much within single operations, which only the
operating system can stop; `ACROSS` do it in every row, or only when the conversation looks real. Some of them end well:
they must be within the bounds all the same.
"""

from __future__ import annotations

# A list of 2**n items in n operations, an integer of many digits, a long string.
LIST = "{{% set ns = namespace(l=[{0}]) %}}{{% for i in range({1}) %}}{{% set ns.l = ns.l + ns.l %}}{{% endfor %}}"
NUMBER = "{{% set ns = namespace(n={0}) %}}{{% for i in range({1}) %}}{{% set ns.n = ns.n * ns.n %}}{{% endfor %}}"
TEXT = "{{% set ns = namespace(s={0}) %}}{{% for i in range({1}) %}}{{% set ns.s = ns.s + ns.s %}}{{% endfor %}}"
NEST = "{% set ns = namespace(s=['ab']) %}{% for i in range(40) %}{% set ns.s = [ns.s, ns.s] %}{% endfor %}"
TWICE = NEST + "{% set nt = namespace(s=['ab']) %}{% for i in range(40) %}{% set nt.s = [nt.s, nt.s] %}{% endfor %}"
MANY = LIST.format("1, 2, 3", 15)
STRINGS = LIST.format("'b', 'a', 'c'", 15)
DICTS = LIST.format("{'role': 'b', 'n': 2}, {'role': 'a', 'n': 1}", 14)
LONG = TEXT.format("'a'", 22)
BIG = NUMBER.format(7, 12)

COUNTED = [
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

UNCOUNTED = [
    # Comparing what is nested twice over is exponential, and one operation.
    TWICE + "{{ ns.s == nt.s }}",
    TWICE + "{{ ns.s != nt.s }}",
    TWICE + "{{ ns.s < nt.s }}",
    TWICE + "{{ ns.s >= nt.s }}",
    TWICE + "{{ ns.s in [nt.s] }}",
    TWICE + "{{ [nt.s].index(ns.s) }}",
    TWICE + "{{ [nt.s].count(ns.s) }}",
    TWICE + "{{ [ns.s, nt.s] | unique | list | length }}",
    TWICE + "{{ ns.s is eq nt.s }}",
    TWICE + "{{ ns.s is in [nt.s] }}",
    TWICE + "{{ [ns.s, nt.s] | sort | length }}",
    TWICE + "{{ [ns.s, nt.s] | max | length }}",
    TWICE + "{{ [{'a': ns.s}, {'a': nt.s}] | groupby('a') | length }}",
    TWICE + "{{ [{'a': ns.s}] | selectattr('a', 'eq', nt.s) | list | length }}",
    TWICE + "{{ [ns.s] | reject('in', [nt.s]) | list | length }}",
    TWICE + "{% if ns.s == nt.s %}x{% endif %}",
    TWICE + "{{ 1 if ns.s == nt.s else 2 }}",
    TWICE + "{% for a in [ns.s] if a == nt.s %}x{% endfor %}",
    # Large lists under filters that are one operation.
    *(
        f"{MANY}{{% for i in range(20000) %}}{{{{ {expression} }}}}{{% endfor %}}"
        for expression in (
            "ns.l | sort | length",
            "ns.l | unique | list | length",
            "ns.l | max",
            "ns.l | min",
            "ns.l | sum",
            "ns.l | reverse | list | length",
            "ns.l.count(5)",
            "5 in ns.l",
            "ns.l == ns.l + [1]",
            "ns.l | last",
            "ns.l[::-1] | length",
            "ns.l | batch(3) | list | length",
            "ns.l | slice(7) | list | length",
            "ns.l | map('string') | list | length",
            "ns.l | select('odd') | list | length",
            "(ns.l | list)[0]",
        )
    ),
    *(
        f"{STRINGS}{{% for i in range(20000) %}}{{{{ {expression} }}}}{{% endfor %}}"
        for expression in (
            "ns.l | sort | length",
            "ns.l | join | length",
            "ns.l | map('upper') | join | length",
            "'z' in ns.l",
        )
    ),
    *(
        f"{DICTS}{{% for i in range(20000) %}}{{{{ {expression} }}}}{{% endfor %}}"
        for expression in (
            "ns.l | groupby('role') | length",
            "ns.l | sort(attribute='n') | length",
            "ns.l | map(attribute='n') | sum",
            "ns.l | selectattr('n', 'gt', 1) | list | length",
            "ns.l | unique(attribute='n') | list | length",
            "ns.l | tojson | length",
            "ns.l | string | length",
        )
    ),
    LIST.format("1", 60) + "{{ ns.l | length }}",
    "{% set ns = namespace(l=[1]) %}{% for i in range(60) %}{% set ns.l = [ns.l, ns.l] | sum(start=[]) %}{% endfor %}",
    "{% set ns = namespace(l=[1]) %}{% for i in range(99999) %}{% set ns.l = ns.l + [i] %}{% endfor %}",
    "{% set ns = namespace(d={}) %}{% for i in range(99999) %}{% set ns.d = dict(ns.d, **{i | string: i}) %}{% endfor %}",
    # Numbers of many digits.
    NUMBER.format(7, 40) + "{{ ns.n % 10 }}",
    NUMBER.format(7, 40) + "{{ ns.n > 1 }}",
    BIG + "{% for i in range(99999) %}{{ (ns.n * ns.n) % 10 }}{% endfor %}",
    BIG + "{% for i in range(99999) %}{{ ns.n // 3 % 10 }}{% endfor %}",
    BIG + "{{ ns.n }}",
    BIG + "{{ ns.n | string | length }}",
    BIG + "{{ '%d' % ns.n }}",
    BIG + "{{ '{:,}'.format(ns.n) }}",
    "{% set ns = namespace(n=7) %}{% for i in range(99999) %}{% set ns.n = ns.n * 10 ** 1000 %}{% endfor %}",
    "{{ 10 ** 4000 }}{% for i in range(99999) %}{{ (10 ** 1000) ** 1 % 7 }}{% endfor %}",
    "{{ 1e308 * 10 }}{{ (1e308 * 10) | int }}",
    "{{ ('9' * 1000000) | int }}",
    "{{ ('9' * 4000) | int ** 2 }}",
    # Long strings.
    *(
        f"{LONG}{{% for i in range(99999) %}}{{{{ {expression} }}}}{{% endfor %}}"
        for expression in (
            "ns.s.count('b')",
            "'b' in ns.s",
            "ns.s == ns.s + 'b'",
            "ns.s.find('ab')",
            "ns.s.startswith('b')",
            "ns.s | trim('b') | length",
            "ns.s.lower() == ns.s",
            "ns.s | striptags | length",
            "ns.s | wordcount",
            "ns.s | upper | length",
            "ns.s | title | length",
            "ns.s | escape | length",
            "ns.s | urlencode | length",
            "ns.s.isalpha()",
            "ns.s.rstrip('a')",
            "ns.s.partition('b') | length",
            "ns.s[::-1] | length",
            "ns.s.encode()",
            "ns.s | truncate(10)",
            "ns.s.swapcase() | length",
            "ns.s.casefold() | length",
            "ns.s | reverse | length",
        )
    ),
    "{{ ('<' * 3000000) | striptags }}",
    "{{ ('<!--' * 1000000) | striptags }}",
    "{{ ('a ' * 2000000) | title }}",
    "{{ ('a' * 9000000) | urlencode }}",
    "{{ ('\\u0000' * 9000000) | tojson }}",
    "{{ ('&' * 9000000) | escape }}",
    "{{ ('%s' * 100000) % ([1] * 100000) }}",
    "{{ '%999999d%999999d%999999d%999999d%999999d%999999d%999999d%999999d%999999d%999999d%999999d' % ((1,) * 11) }}",
    "{{ ('{:999999}' * 100).format(*([1] * 100)) }}",
    # Depth.
    "{% macro f(n) %}{{ f(n) }}{% endmacro %}{{ f(1) }}",
    "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(40) }}",
    "{% set ns = namespace(l=[]) %}{% for i in range(99999) %}{% set ns.l = [ns.l] %}{% endfor %}{{ ns.l }}",
    "{% set ns = namespace(l=[]) %}{% for i in range(99999) %}{% set ns.l = [ns.l] %}{% endfor %}{{ ns.l | tojson }}",
    "{% set ns = namespace(l=[]) %}{% for i in range(99999) %}{% set ns.l = [ns.l] %}{% endfor %}{{ ns.l == [ns.l] }}",
    "{% for a in messages recursive %}{{ loop([a]) }}{% endfor %}",
    "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "{{ " + "-" * 20000 + "1 }}",
    "{{ " + "[" * 3000 + "]" * 3000 + " }}",
    "{{ 1" + " + 1" * 50000 + " }}",
    "{% if 1 %}" * 2000 + "x" + "{% endif %}" * 2000,
    "{% for a in [1, 2] %}" * 30 + "x" + "{% endfor %}" * 30,
    # Constants that jinja2 folds while it compiles.
    "{{ 'a' * 9999999 }}" * 50,
    "{{ [1, 2, 3] * 90000 == [1, 2, 3] * 90000 }}" * 500,
    "{{ ([3, 1, 2] * 80000) | sort | length }}" * 500,
    "{{ (7 ** 1000 * 7 ** 1000) % 3 }}" * 20000,
    "{% set x = 1 %}" * 60000,
    "x" * 900_000,
    "{{ x }}" * 120000,
    "{# " + "a" * 900_000 + " #}",
    "x" * 30_000_000,
]

ACROSS = [
    "{% for m in messages %}{{ m.content }}{% endfor %}{% for i in range(400000 // 4) %}{% set x = i * i %}{% endfor %}",
    "{% for m in messages %}{{ m.content }}{% endfor %}{{ ('a' * 4000000) | title | length }}",
    "{% if messages[0].content == 'How?' %}" + TWICE + "{{ ns.s == nt.s }}{% endif %}x",
    "{% if tools %}" + TWICE + "{{ ns.s == nt.s }}{% endif %}{% for m in messages %}{{ m.content }}{% endfor %}",
    "{% if messages | length > 2 %}" + NUMBER.format(7, 40) + "{{ ns.n % 2 }}{% endif %}x",
    "{{ raise_exception('\x1b[2J\x1b]0;owned\x07' * 100000) }}",
    "{{ 'a' * 9000000 }}",
]

SHOWN = [
    "{{ raise_exception('\x1b[2J\x1b]0;owned\x07\u202e\x9b31m') }}",
    "{% \x1b[2Jnonsense\u202e %}",
    "{{ x | \x1b[2J }}",
    "{% include '\x1b[2J' %}",
    "{{ messages['\x1b[2J\x07'].x }}",
    "{{ {}['\x1b[2J'] + 1 }}",
]
"""Templates whose errors hold control characters."""
