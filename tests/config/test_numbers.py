"""Each setting takes its own kind of value, within its bounds."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any

import pytest

from helpers.training.run_values import refusal, values
from veneer.config import parse
from veneer.config.values import put
from veneer.enums import Method, Schedule
from veneer.errors import ConfigError


@pytest.mark.parametrize(
    ("key", "bad"),
    [
        ("lora.rank", [0, -1, 1.5, True, "many", None, float("nan"), [8]]),
        ("lora.alpha", [0, -2.0, float("inf"), float("nan"), True, "large"]),
        ("lora.dropout", [1.0, -0.1, float("nan"), False]),
        ("lora.target_modules", [5, {"a": 1}, [1, 2]]),
        ("quant.block", [0, 48, "x"]),
        ("quant.scheme", ["nf5", "int4", True, None]),
        ("quant.skip_modules", ["q_proj", [""], [5], None]),
        ("data.file", ["", 5, ["a"]]),
        ("data.sources", [5, "a.jsonl", [{"file": "a", "weight": 0}]]),
        ("data.cache", ["on", True, None]),
        ("data.cache_dir", ["", 5]),
        ("data.held_out", [1.0, -0.1, True, float("nan")]),
        ("data.max_length", [1, 0, True, 2.5]),
        ("data.overlong", ["cut", True]),
        ("data.template_date", ["today", 5, True, None, "2026-13-01", "2026-1-1", datetime(2026, 1, 1, 12)]),
        ("train.epochs", [0, -1, float("inf"), float("nan"), True, 1e300]),
        ("train.steps", [0, -5, 1.5, True]),
        ("train.learning_rate", [0, -1e-4, 1e39, "automatic", float("nan"), True]),
        ("train.weight_decay", [-0.1, float("inf"), True]),
        ("train.clip", [-1.0, float("nan"), True]),
        ("train.seed", [-1, 2**31, True, 0.5]),
        ("train.keep", [0, True]),
        ("compute.micro_batch_tokens", [0, True]),
        ("compute.dtype", ["float8", "fp32"]),
        ("compute.products", ["INT8", "int4", 8, True, None]),
        ("model", ["", 7, True]),
        ("output", ["", None]),
        ("method", ["LORA", "", True]),
    ],
)
def test_values_out_of_range_or_of_another_type_are_refused(key: str, bad: list[Any]) -> None:
    for value in bad:
        changed = values()
        put(changed, key, value)
        message = refusal(changed)
        assert re.search(rf"- {re.escape(key)}(\.0(\.\w+)?)?: ", message), (value, message)  # or a place in a list
        assert ", got " in message, (value, message)


def test_the_value_met_is_shown_and_cut_short() -> None:
    assert "got -3" in refusal(values(lora={"rank": -3}))
    assert "got 'fast'" in refusal(values(train={"learning_rate": "fast"}))
    message = refusal(values(lora={"rank": ["x" * 1000] * 1000}))
    assert len(message) < 800


@pytest.mark.parametrize(
    ("key", "value", "read"),
    [
        ("train.learning_rate", "1e-4", 1e-4),  # YAML 1.1 takes 1e-4 for a string
        ("train.learning_rate", "auto", "auto"),
        ("train.learning_rate", 1, 1.0),
        ("train.epochs", 0.5, 0.5),
        ("train.epochs", 3, 3.0),
        ("lora.rank", 8.0, 8),
        ("lora.target_modules", ["q_proj", "v_proj"], ("q_proj", "v_proj")),
        ("lora.target_modules", ".*proj", ".*proj"),
        ("train.schedule", "linear", Schedule.LINEAR),
        ("method", "full", Method.FULL),
        ("train.steps", None, None),
    ],
)
def test_values_that_are_meant_are_taken(key: str, value: Any, read: Any) -> None:
    changed = values()
    put(changed, key, value)
    found: Any = parse(changed, where="x")
    for part in key.split("."):
        found = getattr(found, part)
    assert found == read
    assert type(found) is type(read)


NUMBERS = [
    "data.max_length", "lora.rank", "train.examples_per_step", "train.tokens_per_step", "train.steps",
    "train.eval_every", "train.save_every", "train.keep", "train.seed", "train.lanes", "compute.threads",
    "compute.memory_limit_mb", "compute.micro_batch_tokens",
]  # fmt: skip


@pytest.mark.parametrize("key", NUMBERS)
@pytest.mark.parametrize("number", [10**12, 10**18, 10**40])
def test_numbers_that_no_run_has_are_refused_with_the_largest(key: str, number: int) -> None:
    values: dict[str, Any] = {"model": "m", "output": "o", "data": {"file": "f"}}
    section, name = key.split(".")
    values.setdefault(section, {})[name] = number
    with pytest.raises(ConfigError, match=rf"{key}: input should be less than (or equal to )?\d+.*got"):
        parse(values, where="the test")


@pytest.mark.parametrize(
    "key", ["lora.rank", "train.examples_per_step", "train.tokens_per_step", "train.steps", "compute.threads"]
)
def test_numbers_that_would_take_all_memory_or_years_are_refused(key: str) -> None:
    section, name = key.split(".")
    values: dict[str, Any] = {"model": "m", "output": "o", "data": {"file": "f"}}
    values.setdefault(section, {})[name] = 10**9
    with pytest.raises(ConfigError, match=f"{key}: input should be less than or equal to"):
        parse(values, where="the test")


def test_the_home_is_replaced_in_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/of/somebody")
    given = values()
    for key in ("output", "train.from_adapter"):
        put(given, key, "~/a")
    config = parse(given, where="test")
    assert [config.output, config.train.from_adapter] == ["/home/of/somebody/a"] * 2
    put(given, "output", "./~/a")
    assert parse(given, where="test").output == "./~/a"
    put(given, "output", "~a-user-that-is-not-here/a")
    assert "output: ~a-user-that-is-not-here/a: " in refusal(given)
