"""Every name of an objective is an objective, with its own settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.models.tiny import run_config
from veneer.enums import ObjectiveName
from veneer.training.objectives.choose import NoTeacher, needs_reference, objective_of
from veneer.training.objectives.reference import ReferenceTable

CLASSES = {
    "sft": "SupervisedCrossEntropy", "pretraining": "SupervisedCrossEntropy", "dpo": "Dpo", "orpo": "Orpo",
    "cpo": "Cpo", "simpo": "Simpo", "kto": "Kto", "distillation": "Distillation", "reward": "Reward",
    "grpo": "Grpo",
}  # fmt: skip

MORE = {
    ObjectiveName.DISTILLATION: ("distillation.teacher=t",),
    ObjectiveName.GRPO: ("rewards=[{metric: exact}]",),
}
"""What an objective cannot do without."""


@pytest.mark.parametrize("name", ObjectiveName)
def test_a_name_gives_its_objective(name: ObjectiveName) -> None:
    config = run_config(Path("m"), Path("d"), Path("o"), f"objective={name.value}", *MORE.get(name, ()))
    assert type(objective_of(config, ReferenceTable.empty(0))).__name__ == CLASSES[name.value]


def test_nobody_is_taught_before_there_is_a_teacher() -> None:
    with pytest.raises(AssertionError, match="before its first step"):
        NoTeacher().of(None)  # type: ignore[arg-type]


def test_only_what_compares_with_a_reference_needs_one() -> None:
    assert {name for name in ObjectiveName if needs_reference(name)} == {ObjectiveName.DPO, ObjectiveName.KTO}
