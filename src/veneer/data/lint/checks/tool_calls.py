"""Tool calls that the template changes.

Some templates expect the arguments as an object, others as JSON in a string. Given the other form, some write the
string as JSON a second time (`"{\\"city\\": …}"`), some write Python's notation (`{'city': …}`), and some nothing. A
call is intact if its arguments can be parsed back from the rendered turn, or if all its keys and values are there one
by one, as in templates that write calls as XML.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from veneer.data.lint.fields import arguments_of, leaves, parsed, trained_spans
from veneer.data.lint.row import LintSetting, Row
from veneer.data.lint.rules import Cost, Finding, LintRule, RowCheck, Severity

TOOL_CALL_LOST = LintRule(
    "tool-call-lost",
    Severity.ERROR,
    Cost.TOKENS,
    "have tool calls that the chat template does not write unchanged",
    "write `arguments` in the form that the template expects, an object instead of a string or the other way round; "
    "if it leaves out calls altogether, use a model whose template supports tools",
)
_TRIED_BRACES = 200
"""The number of opening braces in a turn that are tried as the start of an object."""


def _run(row: Row, setting: LintSetting) -> Iterator[Finding]:
    if row.trace is None or row.record is None:
        return
    turns = [(i, message) for i, message in enumerate(row.record.messages) if message.get("tool_calls")]
    if not turns:
        return
    spans = trained_spans(row.record, row.trace)
    for index, message in turns:
        start, end = spans.get(index, (0, len(row.trace.text)))
        text = row.trace.text[start:end]
        for number, call in enumerate(message["tool_calls"]):
            problem = _problem(call, text)
            if problem is not None:
                yield TOOL_CALL_LOST.found(f"messages[{index}].tool_calls[{number}]: {problem}")


def _problem(call: Mapping[str, Any], text: str) -> str | None:
    function = call.get("function", call)
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        return "the call names no function"
    if function["name"] not in text:
        return f"the function {function['name']!r} is left out"
    arguments = arguments_of(function)
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments) if arguments.strip() else {}
        except (ValueError, RecursionError):
            return f"the arguments {arguments[:60]!r} are not JSON"
    if not isinstance(arguments, (dict, list)):
        return f"the arguments are {arguments!r}, which is neither an object nor a list"
    if not arguments:
        return None
    if isinstance(arguments, list) and all(map(_is_pair, arguments)):
        return f"the arguments are a list of names and values, {repr(arguments)[:60]}, instead of an object"
    found = list(_values(text))
    if any(_equal(value, arguments) for value in found):
        return None
    if any(isinstance(value, str) and _equal(parsed(value), arguments) for value in found):
        return "the arguments are written as a string within JSON, quoted twice"
    if repr(arguments) in text:
        return f"the arguments are written in Python's notation: {repr(arguments)[:60]}"
    missing = [leaf for leaf in leaves(arguments) if not _stands(leaf, text)]
    return f"of the arguments, {missing[0]!r} is left out" if missing else None


def _is_pair(item: Any) -> bool:
    """Whether an item is a name with its value, the form in which libraries give the maps of Arrow and Parquet."""
    return isinstance(item, (list, tuple)) and len(item) == 2 and isinstance(item[0], str)


def _equal(one: Any, other: Any) -> bool:
    return type(one) is type(other) and bool(one == other)


def _values(text: str) -> Iterator[Any]:
    """Every value of every JSON object or list in a text."""
    decoder = json.JSONDecoder()
    at, tries = 0, 0
    while tries < _TRIED_BRACES:
        starts = [place for place in (text.find("{", at), text.find("[", at)) if place >= 0]
        if not starts:
            return
        tries += 1
        try:
            value, at = decoder.raw_decode(text, min(starts))
        except (ValueError, RecursionError):
            at = min(starts) + 1
            continue
        stack = [value]
        while stack:
            one = stack.pop()
            yield one
            stack.extend(one.values() if isinstance(one, dict) else one if isinstance(one, list) else ())


def _stands(leaf: Any, text: str) -> bool:
    if isinstance(leaf, str):
        return leaf in text or leaf.strip() in text
    return any(form in text for form in (json.dumps(leaf), str(leaf)))


CHECK = RowCheck((TOOL_CALL_LOST,), _run)
