"""What a comparison may be asked."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from veneer.comparison.settings import CompareConfig, check_question
from veneer.enums import Method, ObjectiveName
from veneer.errors import ConfigError

ASKED = CompareConfig(model="m", data="pairs.jsonl", output="out", methods=(Method.LORA,))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"assignments": ("objective=dpo",)},
            r"for pairs name an objective .* \(--preference dpo\)",
        ),
        ({"preference": ObjectiveName.KTO}, "by an objective of pairs, not by kto"),
        ({"preference": ObjectiveName.REWARD}, "by an objective of pairs, not by reward"),
        ({"preference": ObjectiveName.DPO, "methods": (Method.FULL,)}, "full makes none; give methods lora, qlora"),
        ({"preference": ObjectiveName.DPO, "data": None, "assignments": ("data.sources=[]",)}, "a file of pairs"),
        ({"seeds": 0}, "at least one method and one seed"),
    ],
)
def test_what_cannot_be_compared_is_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_question(replace(ASKED, **changed))


def test_pairs_may_be_compared() -> None:
    check_question(replace(ASKED, preference=ObjectiveName.SIMPO, assignments=("simpo.beta=2",)))
