"""Tools: which of several fits a request, and with which arguments. The prompt gives the format of the call."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from veneer.evaluation.scoring import json_object, same_json
from veneer.evaluation.suites.base import CITIES, NAMES, NOUNS, Item, Suite, unfenced
from veneer.text.strict_json import to_text

_TOOLS: dict[str, tuple[str, dict[str, str], str]] = {
    "get_weather": ("Tells the weather of a city.", {"city": "string"}, "What is the weather in {city}?"),
    "send_mail": ("Sends a message.", {"to": "string", "subject": "string"}, "Mail {to} about: {subject}."),
    "set_timer": ("Sets a timer.", {"minutes": "integer"}, "Wake me in {minutes} minutes."),
    "add_item": ("Puts things on the shopping list.", {"item": "string", "count": "integer"},
                 "I need to buy this, {count} times: {item}."),
    "book_table": ("Reserves a table in a restaurant.", {"city": "string", "people": "integer"},
                   "Reserve a table for {people} people in {city}."),
    "find_person": ("Looks up a person in the address book.", {"name": "string"}, "What is {name}'s phone number?"),
}  # fmt: skip


def _value(argument: str, source: random.Random) -> Any:
    texts = {"city": CITIES, "to": NAMES, "name": NAMES, "subject": NOUNS, "item": NOUNS}
    return source.choice(texts[argument]) if argument in texts else source.randint(2, 20)


def _make(source: random.Random) -> Item:
    offered = source.sample(sorted(_TOOLS), k=source.randint(3, len(_TOOLS)))
    chosen = source.choice(offered)
    arguments = {argument: _value(argument, source) for argument in _TOOLS[chosen][1]}
    lines = [
        f"- {name}({', '.join(f'{key}: {kind}' for key, kind in _TOOLS[name][1].items())}): {_TOOLS[name][0]}"
        for name in offered
    ]
    call = {"tool": chosen, "arguments": arguments}
    prompt = (
        "You can call one of these tools:\n" + "\n".join(lines) + '\n\nAnswer with one JSON object, {"tool": NAME, '
        f'"arguments": {{…}}}}, which calls the tool that fits.\n\nRequest: {_TOOLS[chosen][2].format(**arguments)}'
    )
    return Item(prompt, to_text(call), {"call": call})


def _right(answer: str, check: Mapping[str, Any]) -> bool:
    found = json_object(unfenced(answer))
    return found is not None and same_json(found, check["call"])


TOOLS = Suite("tools", "the choice of a tool and of its arguments", _make, _right)
