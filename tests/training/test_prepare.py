"""Everything that a run is made of is made once, and a plan is the plan of the run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hf_models import write_hf_model
from tiny import run_config
from veneer.adapters import inject as inject_module
from veneer.adapters.spec import LoraSpec
from veneer.errors import ConfigError
from veneer.planning import setup as planning_module
from veneer.planning.estimate import Estimate
from veneer.planning.plan import Plan
from veneer.training import prepare as prepare_module
from veneer.training.prepare import plan
from veneer.training.run import train
from veneer.training.steps import PackedSteps, SupposedRows


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Counts what a run makes."""
    counts: Counter[str] = Counter()

    def counted(name: str, made: Callable[..., Any]) -> Callable[..., Any]:
        def count(*args: Any, **options: Any) -> Any:
            counts[name] += 1
            return made(*args, **options)

        return count

    monkeypatch.setattr(PackedSteps, "__init__", counted("steps", PackedSteps.__init__))
    monkeypatch.setattr(LoraSpec, "of", counted("lora", LoraSpec.of))
    monkeypatch.setattr(LoraSpec, "targets", counted("targets", LoraSpec.targets))
    for module in (prepare_module, planning_module, inject_module):
        monkeypatch.setattr(module, "refuse", counted("refuse", module.refuse))
    return counts


@pytest.mark.parametrize(
    "settings",
    [
        ("method=lora",),
        ("method=qlora", "lora.rank=auto", "train.learning_rate=auto"),
        ("method=lora", "lora.init=eva"),
        ("method=lora", "backend=hf"),
    ],
    ids=["lora", "everything chosen", "measured start", "transformers"],
)
def test_a_run_makes_everything_once(
    settings: tuple[str, ...], made: Counter[str], tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    train(run_config(tiny_model, tiny_data, tmp_path / "run", "train.steps=2", "data.held_out=0.2", *settings))
    assert made == {"steps": 1, "lora": 1, "targets": 1, "refuse": 1}


def test_full_fine_tuning_resolves_no_adapter(
    made: Counter[str], tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    settings = ("method=full", "train.steps=2", "lora.rank=auto")
    train(run_config(tiny_model, tiny_data, tmp_path / "run", *settings))
    assert (made["steps"], made["targets"], made["refuse"]) == (1, 0, 0)


@pytest.mark.parametrize("method", ["lora", "qlora", "full"])
def test_a_plan_from_the_configuration_is_the_plan_of_the_run(
    method: str, tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    config = run_config(
        tiny_model, tiny_data, tmp_path / "run", f"method={method}", "data.held_out=0.2", "lora.rank=auto"
    )
    found, made = plan(config), train(config).plan
    assert isinstance(found, Plan)
    assert made is not None
    assert (found.choice.micro_batch_tokens, found.choice.batch, found.steps) == (
        made.choice.micro_batch_tokens, made.choice.batch, made.steps,
    )  # fmt: skip
    for part in ("base", "adapters", "gradients", "optimizer", "activations"):
        assert getattr(found.choice.memory, part) == getattr(made.choice.memory, part), part


def test_a_run_that_does_not_fit_is_told_by_its_plan_and_refused_by_train(
    tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    config = run_config(tiny_model, tiny_data, tmp_path / "run", "compute.memory_limit_mb=1")
    refusal = plan(config).refusal
    assert refusal is not None
    with pytest.raises(ConfigError, match="may take 1 MB"):
        train(config)


def test_an_estimate_of_supposed_rows_has_the_face_of_a_plan(tmp_path: Path) -> None:
    model = write_hf_model(tmp_path / "model", "gpt2")
    config = run_config(model, Path("-"), tmp_path / "run", "lora.rank=auto")
    found = plan(config, device="cpu", rows=SupposedRows(rows=100, tokens=50, longest=60))
    assert isinstance(found, Estimate)
    assert found.refusal is None
    assert found.micro_batch_tokens >= 60
    assert found.to_json()["peak"] == found.peak
    assert found.lines()
