"""What a comparison may be asked."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from veneer.comparison.request import CompareRequest, check_question
from veneer.enums import Method, ObjectiveName
from veneer.errors import ConfigError

ASKED = CompareRequest(model="m", data="pairs.jsonl", output="out", methods=(Method.LORA,))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"assignments": ("objective=dpo",)},
            r"for pairs, name an objective .* \(--preference dpo\)",
        ),
        ({"preference": ObjectiveName.KTO}, "an objective of pairs that continues fine-tuning, not kto"),
        ({"preference": ObjectiveName.REWARD}, "an objective of pairs that continues fine-tuning, not reward"),
        ({"preference": ObjectiveName.DPO, "methods": (Method.FULL,)}, "full makes none; give methods lora, qlora"),
        ({"preference": ObjectiveName.DPO, "data": None, "assignments": ("data.sources=[]",)}, "a file of pairs"),
        ({"seeds": 0}, "seeds: must be at least 1, got 0"),
        ({"limit": -1}, "limit: must be at least 1, got -1"),
        ({"max_new_tokens": -5}, "max_new_tokens: must be at least 1, got -5"),
        ({"methods": ()}, "at least one method"),
        ({"methods": (Method.LORA, Method.LORA)}, "methods: 'lora' is given 2 times; give it once"),
        ({"metrics": ("exact", "exact")}, "metrics: 'exact' is given 2 times; give it once"),
        (
            {"assignments": ("train.epochs=2", "train={epochs: 3}")},
            r"two values(.|\n)*train\.epochs: 2 and 3",
        ),
        (
            {"more": {Method.LORA: ("lora.rank=4", "lora.rank=8")}},
            r"two values(.|\n)*lora\.rank: 4 and 8",
        ),
        ({"assignments": ("train={seed: 7}",)}, r"leave them out:\n  - train\.seed"),
        ({"assignments": ("data={held_out: 0.5}",)}, r"leave them out:\n  - data\.held_out"),
        ({"assignments": ("model.x=1",)}, r"leave them out:\n  - model\.x"),
        ({"more": {Method.LORA: ("data.columns.prompt=text",)}}, r"all methods have the same rows(.|\n)*data\.columns"),
        ({"more": {Method.LORA: ("data.bad_rows=skip",)}}, r"all methods have the same rows(.|\n)*data\.bad_rows"),
    ],
)
def test_what_cannot_be_compared_is_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_question(replace(ASKED, **changed))


@pytest.mark.parametrize("text", ["objective=sft", "objective= sft", "objective='sft'"])
def test_the_objective_of_a_comparison_may_be_given_in_any_notation(text: str) -> None:
    check_question(replace(ASKED, assignments=(text,)))


def test_pairs_may_be_compared() -> None:
    check_question(replace(ASKED, preference=ObjectiveName.SIMPO, assignments=("simpo.beta=2",)))


def test_a_section_may_be_set_as_a_whole_where_it_has_no_setting_of_the_comparisons() -> None:
    check_question(replace(ASKED, assignments=("train={epochs: 2}", "data={bad_rows: skip}")))
