from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from veneer.config import parse
from veneer.events import Level, Note
from veneer.training.plan import plan_run
from veneer.training.unused_settings import unused_settings


@pytest.mark.parametrize(
    ("settings", "sentences"),
    [
        ({"method": "qlora", "quant": {"block": 32}, "lora": {"rank": 4}, "train": {"beta2": 0.9}}, []),
        ({"method": "lora", "lora": {"rank": 4}}, []),
        (
            {"method": "lora", "quant": {"block": 32, "skip_modules": ["q_proj"]}},
            ["quant.block and quant.skip_modules have no effect: only method qlora quantises the base, and method is "
             "lora"],
        ),
        (
            {"method": "full", "quant": {"scheme": "fp4"}, "lora": {"rank": 4}},
            ["quant.scheme has no effect: only method qlora quantises the base, and method is full",
             "lora.rank has no effect: method full trains no adapter"],
        ),
        (
            {"track": ["tensorboard"], "tracking": {"mode": "online"}},
            ["tracking.mode has no effect: track names none of wandb, mlflow and trackio"],
        ),
        ({"track": ["trackio"], "tracking": {"mode": "online"}}, []),
        (
            {"train": {"schedule": "constant", "min_rate": 0.1}},
            ["train.min_rate has no effect: train.schedule constant falls towards no other rate"],
        ),
        (
            {"train": {"optimizer": "adafactor", "beta1": 0.5, "beta2": 0.9}},
            ["train.beta1 and train.beta2 have no effect: train.optimizer adafactor has no such decay rate"],
        ),
        (
            {"train": {"optimizer": "sgd", "learning_rate": 0.1, "beta1": 0.5, "beta2": 0.9}},
            ["train.beta2 has no effect: train.optimizer sgd has no such decay rate"],
        ),
        ({"train": {"optimizer": "sgd", "learning_rate": 0.1, "beta2": 0.999}}, []),  # as a run records `auto`
    ],
)  # fmt: skip
def test_settings_without_an_effect_are_named_with_the_reason(settings: dict[str, Any], sentences: list[str]) -> None:
    config = parse({"model": "m", "output": "o", "data": {"file": "rows.jsonl"}, **settings}, where="test")
    assert unused_settings(config) == sentences


def test_a_run_warns_of_them(tiny_model: Path, tiny_data: Path, tmp_path: Path) -> None:
    said: list[object] = []
    values = {"model": str(tiny_model), "output": str(tmp_path / "o"), "data": {"file": str(tiny_data)}}
    plan_run(parse({**values, "method": "lora", "quant": {"block": 32}}, where="test"), said.append)
    warnings = [one.message for one in said if isinstance(one, Note) and one.level is Level.WARNING]
    assert "quant.block has no effect: only method qlora quantises the base, and method is lora" in warnings
