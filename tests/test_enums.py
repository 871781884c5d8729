from __future__ import annotations

import inspect
from enum import Enum

import pytest

import veneer
from veneer import enums, formulas
from veneer.enums import choice
from veneer.errors import ConfigError

EVERY = [
    one
    for one in (*vars(enums).values(), *vars(formulas).values())
    if inspect.isclass(one) and issubclass(one, Enum) and one is not Enum
]


@pytest.mark.parametrize("kind", EVERY)
def test_every_word_is_read_as_itself_and_another_is_refused_with_all_that_there_are(kind: type[Enum]) -> None:
    for member in kind:
        assert choice(kind, member, "setting") is member
        assert choice(kind, member.value, "setting") is member
    with pytest.raises(ConfigError) as caught:
        choice(kind, "no such word", "setting")
    assert str(caught.value).startswith("setting: 'no such word' is unknown")
    assert [member.value for member in kind if member.value not in str(caught.value)] == []


def test_enums_may_be_given_by_their_names() -> None:
    from veneer.enums import Method, choice

    assert choice(Method, "lora", "method") is choice(Method, Method.LORA, "method") is Method.LORA
    with pytest.raises(
        veneer.VeneerError, match=r"to: 'pefd' is unknown \(did you mean 'peft'\?\); possible are peft, "
    ):
        veneer.export("adapter", "output", to="pefd")
    with pytest.raises(veneer.VeneerError, match=r"dtype: 'float8' is unknown.* possible are auto, float32, "):
        veneer.export("adapter", "output", dtype="float8")
    with pytest.raises(veneer.VeneerError, match=r"method: 'dora' is unknown.* possible are lora, qlora, full"):
        veneer.evaluate("model", "data.jsonl", method="dora")
