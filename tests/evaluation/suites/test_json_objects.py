from __future__ import annotations

import json
import random

import pytest

from veneer.evaluation.suites.json_objects import JSON_OBJECTS


def test_every_key_that_is_asked_for_has_its_value_in_the_sentences() -> None:
    source = random.Random(4)
    for _ in range(100):
        item = JSON_OBJECTS.make(source)
        sentences, asked = item.prompt.split("\n\n")
        for key, value in item.check["value"].items():
            assert f"{key} (" in asked
            assert isinstance(value, bool) or str(value) in sentences
        assert JSON_OBJECTS.right(json.dumps(item.check["value"], indent=2), item.check)
        assert JSON_OBJECTS.right(f"```json\n{json.dumps(item.check['value'])}\n```", item.check)


@pytest.mark.parametrize("answer", ['{"age": "30"}', '{"age": 30, "x": 1}', "{}", "age: 30", "[30]", '{"age": 30.5}'])
def test_other_types_keys_and_values_are_wrong(answer: str) -> None:
    assert JSON_OBJECTS.right('{"age": 30}', {"value": {"age": 30}})
    assert not JSON_OBJECTS.right(answer, {"value": {"age": 30}})
