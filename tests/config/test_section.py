"""What is not understood is refused, and by name."""

from __future__ import annotations

import re
from typing import Any

import pytest

from helpers.training.run_values import refusal, values
from veneer.config import LoraSection, check, parse
from veneer.errors import ConfigError


@pytest.mark.parametrize(
    ("given_values", "wrong", "meant"),
    [
        (values(lora={"rnk": 8}), "lora.rnk", "lora.rank"),
        (values(rank=8), "rank", "lora.rank"),
        (values(learning_rate=1e-4), "learning_rate", "train.learning_rate"),
        (values(trian={"epochs": 2}), "trian", "train"),
        (values(train={"lr_schedule": "cosine"}), "train.lr_schedule", "train.schedule"),
        (values(modle="m"), "modle", "model"),
        (values(lora={"learning_rate": 1e-4}), "lora.learning_rate", "train.learning_rate"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_known_one(
    given_values: dict[str, Any], wrong: str, meant: str
) -> None:
    message = refusal(given_values)
    assert f"- {wrong}: unknown key (did you mean '{meant}" in message
    assert message.startswith("run.yaml is not valid")


def test_a_key_with_a_dot_in_it_is_refused_with_the_section_where_it_belongs() -> None:
    message = refusal(values(**{"train.steps": 1}))
    assert "- train.steps: unknown key with a dot in it; give 'steps' as a key of the section 'train'" in message


def test_an_unknown_key_like_no_other_gets_no_hint() -> None:
    assert re.search(r"- zzzzqqq: unknown key$", refusal(values(zzzzqqq=1)), re.MULTILINE)


def test_every_wrong_thing_is_named_in_one_error() -> None:
    message = refusal({"model": 5, "lora": {"rank": 0, "dropout": 1.0}, "train": {"epohcs": 1}, "method": "dora"})
    for line in (
        "- model: ", "- output: required", "- data: required", "- lora.rank: ", "- lora.dropout: ", "- method: ",
        "- train.epohcs: unknown key (did you mean 'train.epochs'?)",
    ):  # fmt: skip
        assert line in message, line
    assert message.count("\n  - ") == 7


@pytest.mark.parametrize(
    ("given_values", "said"),
    [
        (values(track="wandb"), "- track: must be a list, such as [wandb], got 'wandb'"),
        (values(lora={"layers_to_transform": 3}), "- lora.layers_to_transform: must be a list, such as [3], got 3"),
        (
            values(lora={"exclude_modules": {}}),
            "- lora.exclude_modules: input should be a valid string; or must be a list, such as […], got {}",
        ),
        (values(lora={"rank_pattern": 3}), "- lora.rank_pattern: must be a mapping, such as {key: value}, got 3"),
        (values(lora=True), "- lora: is a section, and must be a mapping of its keys, such as {key: value}, got True"),
    ],
)
def test_lists_and_mappings_are_asked_for_in_the_words_of_yaml(given_values: dict[str, Any], said: str) -> None:
    assert said in refusal(given_values)


@pytest.mark.parametrize(
    ("given_values", "said"),
    [
        (
            values(rewards=[{"metric": "exact"}, {"python": "a.py:f", "weight": float("nan")}]),
            "rewards.1.weight: input",
        ),
        (values(rewards=[3]), "rewards.0: is a section"),
        (values(data={"file": "f", "columns": {"foo": "b"}}), "data.columns.foo: input should be 'messages'"),
        (
            values(lora={"target_modules": ["q_proj", 3]}),
            "lora.target_modules.1: input should be a valid string, got 3",
        ),
        (values(lora={"rank_pattern": {"q": "x"}}), "lora.rank_pattern.q: input should be a valid integer"),
    ],
)
def test_what_is_wrong_in_a_list_or_a_mapping_is_named_by_its_place(given_values: dict[str, Any], said: str) -> None:
    """And by it alone."""
    message = refusal(given_values)
    assert f"\n  - {said}" in message
    assert message.count("\n  - ") == 1


def test_nothing_behind_a_key_is_called_so() -> None:
    assert refusal(values(tracking={"project": None})).endswith(
        "- tracking.project: input should be a valid string, got nothing (null)"
    )


def test_a_missing_key_inside_a_section_is_named_in_full() -> None:
    assert "- data.file: required, but not given" in refusal({"model": "m", "output": "o", "data": {}})


def test_a_configuration_cannot_be_changed_afterwards() -> None:
    config = parse(values(), where="x")
    with pytest.raises(ValueError, match="frozen"):
        config.output = "elsewhere"
    check(config)


def test_a_set_is_taken_in_alphabetical_order() -> None:
    """That of hashes is another one in every process: a resumed run would not be the one that was begun."""
    names = {"v_proj", "q_proj", "o_proj", "k_proj", "up_proj"}
    config = parse(values(lora={"target_modules": names}), where="x")
    assert config.lora.target_modules == tuple(sorted(names))
    assert LoraSection(modules_to_save=frozenset(names)).modules_to_save == tuple(sorted(names))


def test_keys_that_are_no_text_are_refused() -> None:
    with pytest.raises(ConfigError):
        parse({**values(), 5: 1}, where="x")  # type: ignore[dict-item]
