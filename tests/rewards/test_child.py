"""What the process of a Python reward accepts of a function, without the process."""

from __future__ import annotations

from typing import Any

import pytest

from veneer.rewards import child


def test_only_the_arguments_that_a_function_names_are_given() -> None:
    def named(prompts: list[str], level: list[int]) -> list[int]:
        return [len(prompt) + one for prompt, one in zip(prompts, level, strict=True)]

    given: dict[str, Any] = {"prompts": ["a", "bb"], "completions": ["x", "y"], "level": [1, 2], "other": [0, 0]}
    assert child.asked(named, given) == [2.0, 4.0]


def test_a_function_needs_the_arguments_that_have_no_value_of_their_own() -> None:
    def named(prompts: list[str], level: list[int], *rest: int, more: int = 1, **columns: list[Any]) -> list[int]:
        return []

    assert child.needs_of(named) == ["prompts", "level"]


def test_true_and_false_are_one_and_zero() -> None:
    assert child.asked(lambda prompts: [True, False], {"prompts": ["a", "b"]}) == [1.0, 0.0]


def test_a_value_that_is_no_number_is_an_error() -> None:
    with pytest.raises(child.NotUsable, match="it returned 'good' for an answer"):
        child.asked(lambda prompts: ["good"], {"prompts": ["a"]})
