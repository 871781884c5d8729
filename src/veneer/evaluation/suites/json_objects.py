"""JSON objects with keys and values that a sentence gives."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from veneer.evaluation.scoring import json_object, same_json
from veneer.evaluation.suites.base import CITIES, NAMES, NOUNS, Item, Suite, unfenced
from veneer.text.strict_json import to_text


def _make(source: random.Random) -> Item:
    name, city, noun = source.choice(NAMES), source.choice(CITIES), source.choice(NOUNS)
    age, count, member = source.randint(18, 80), source.randint(2, 40), source.random() < 0.5
    facts: dict[str, tuple[str, Any, str]] = {
        "name": (f"The customer is called {name}.", name, "a text"),
        "age": (f"The customer is {age} years old.", age, "a number"),
        "city": (f"The customer lives in {city}.", city, "a text"),
        "item": (f"The customer bought a {noun}.", noun, "a text"),
        "count": (f"The order holds {count} pieces.", count, "a number"),
        "member": (f"The customer is {'a' if member else 'not a'} member.", member, "true or false"),
    }
    keys = source.sample(sorted(facts), k=source.randint(2, 5))
    sentences = " ".join(facts[key][0] for key in keys)
    asked = ", ".join(f"{key} ({facts[key][2]})" for key in keys)
    value = {key: facts[key][1] for key in keys}
    prompt = f"{sentences}\n\nWrite this as a JSON object with the keys {asked}. Answer with the JSON alone."
    return Item(prompt, to_text(value), {"value": value})


def _right(answer: str, check: Mapping[str, Any]) -> bool:
    found = json_object(unfenced(answer))
    return found is not None and same_json(found, check["value"])


JSON_OBJECTS = Suite("json", "JSON objects from sentences, with given keys and types", _make, _right)
