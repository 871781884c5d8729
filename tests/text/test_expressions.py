"""Expressions that never end are found, and honest ones are not taken for such."""

from __future__ import annotations

import pytest

from veneer.text import expressions
from veneer.text.expressions import endless

PATHS = [f"model.layers.{layer}.self_attn.q_proj" for layer in range(40)]
HONEST = [
    "q_proj",
    r".*\.layers\.(0|1|2)\..*(q_proj|v_proj)$",
    r"(?:.*?(?:language|text).*?(?:self_attn|mlp).*?(?:q_proj|k_proj).*?)|(?:\bmodel\.layers\.[\d]{1,}\.self_attn\.q_proj)",
    "*",
    "(",
]


@pytest.mark.parametrize(
    "hostile",
    [
        r"([a-z._0-9]+)+!",
        ".?" * 33 + "!",
        *(
            pytest.param(one, marks=pytest.mark.slow)
            for one in (r"(.|[a-z.])*!", r"(model.*)*(.*)*(.*)*(.*)*!", "(.|.)" * 30 + "!")
        ),
    ],
)
def test_an_expression_that_never_ends_is_named(hostile: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expressions, "SECONDS", 1)
    assert endless([*HONEST, hostile, "a*"], PATHS) == [hostile]


def test_honest_expressions_pass() -> None:
    assert endless(HONEST, PATHS) == []
    assert endless([], PATHS) == []
