"""Settings that contradict each other are refused together."""

from __future__ import annotations

from typing import Any

import pytest

from helpers.training.run_values import refusal, values
from veneer.config import check, parse


@pytest.mark.parametrize(
    ("sections", "named"),
    [
        ({"train": {"examples_per_step": 4, "tokens_per_step": 100}}, "train.tokens_per_step"),
        ({"train": {"epochs": 2, "steps": 100}}, "train.epochs and train.steps"),
        ({"data": {"file": "f", "eval_file": "g", "held_out": 0.1}}, "data.held_out"),
        ({"train": {"eval_every": 5}}, "train.eval_every"),
        ({"method": "full", "compute": {"products": "int8"}}, "use method lora or qlora"),
        ({"quant": {"scheme": "int8", "block": 128}}, "quant.block is for the 4-bit schemes"),
        (
            {"track": ["wandb"], "tracking": {"project": "a/b"}},
            "'a/b' cannot be a project of wandb, whose name must not contain",
        ),
        ({"track": ["wandb"], "tracking": {"project": "ä" * 129}}, "has 129 characters"),
        ({"quant": {"scheme": "int8", "double_quant": False}}, "quant.double_quant is for the 4-bit schemes"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(sections: dict[str, Any], named: str) -> None:
    message = refusal(values(**sections))
    assert "contradicts itself" in message
    assert named in message


def test_all_contradictions_are_named_at_once() -> None:
    train = {"examples_per_step": 4, "tokens_per_step": 100, "epochs": 1, "steps": 5, "eval_every": 3}
    assert refusal(values(train=train)).count("\n  - ") == 3


def test_only_wandb_is_asked_for_the_name_of_its_project() -> None:
    for track, project in (([], "a/b"), (["tensorboard", "mlflow"], "a/b"), (["wandb"], "ä b" + "c" * 125)):
        check(parse(values(track=track, tracking={"project": project}), where="run.yaml"))
