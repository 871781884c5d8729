"""JSON that is written has no NaN and no infinity."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from veneer.errors import OutputError
from veneer.text.strict_json import only_finite, restored, tagged, to_text, with_reasons

INF, NAN = math.inf, math.nan


def strictly(text: str) -> Any:
    """Parse JSON as its standard has it."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    return json.loads(text, parse_constant=refuse)


def test_numbers_that_are_not_finite_are_null_beside_their_reason() -> None:
    values = {"loss": NAN, "terms": {"kl": -INF, "nll": 0.5}, "steps": [1.0, INF, {"x.y": NAN}], "name": "nan"}
    found = strictly(to_text(with_reasons(values)))
    assert found["loss"] is None
    assert found["terms"] == {"kl": None, "nll": 0.5}
    assert found["steps"] == [1.0, None, {"x.y": None}]
    assert found["name"] == "nan"
    assert found["not_finite"] == {"loss": "nan", "terms.kl": "-inf", "steps[1]": "inf", "steps[2].x.y": "nan"}
    assert repr(restored(found)) == repr(values)


def test_numbers_of_a_models_configuration_are_tagged_as_transformers_does() -> None:
    values = {"limits": (0.0, INF), "a": {"b": -INF}, "c": NAN, "d": [1, "x", None]}
    infinity, negative, nan = ({"__float__": name} for name in ("Infinity", "-Infinity", "NaN"))
    written = {"limits": [0.0, infinity], "a": {"b": negative}, "c": nan, "d": [1, "x", None]}
    assert strictly(to_text(tagged(values))) == written
    assert only_finite(values) == {"d": [1, "x", None]}


def test_finite_values_stay_as_they_are() -> None:
    values = {"loss": 1.5, "none": None, "list": [1, "a", True]}
    assert with_reasons(values) == values
    assert restored(values) == values


def test_a_number_that_is_not_finite_is_otherwise_an_error_that_names_its_place() -> None:
    with pytest.raises(OutputError, match=r"a\.b\[1\]: inf\n.*c: nan"):
        to_text({"a": {"b": [0.0, INF]}, "c": NAN})


def test_what_json_has_no_form_for_stays_an_error_of_the_caller() -> None:
    with pytest.raises(TypeError):
        to_text({"a": object()})
