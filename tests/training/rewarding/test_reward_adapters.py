"""What a reward model among the rewards must be, and what the plan says that it takes."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.models.tiny import rows, run_config, write_model, write_rows
from helpers.rows.preference_rows import pairs
from veneer.config import RunConfig
from veneer.errors import AdapterError, ConfigError
from veneer.events import ignore
from veneer.planning.plan import Plan
from veneer.training.plan import plan_run
from veneer.training.run import train
from veneer.training.supposed_steps import SupposedRows


@pytest.fixture(scope="module")
def folder(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prompts, a reward model and an adapter of fine-tuning."""
    path = tmp_path_factory.mktemp("adapters")
    write_rows(path / "prompts.jsonl", [{"prompt": f"{n}?"} for n in range(8)])
    file = write_rows(path / "pairs.jsonl", pairs(6))
    train(run_config(tiny_model, file, path / "judge", "objective=reward", "train.steps=1", "lora.rank=2"))
    train(run_config(tiny_model, write_rows(path / "rows.jsonl", rows(8)), path / "sft", "train.steps=1"))
    return path


def judged(model: Path, folder: Path, adapter: str, *more: str) -> RunConfig:
    rewards = f"rewards=[{{adapter: '{folder / adapter}'}}]"
    settings = "objective=grpo", "grpo.num_generations=2", "train.steps=1", "lora.rank=2", rewards, *more
    return run_config(model, folder / "prompts.jsonl", folder / "unused", *settings)


def test_another_base_is_refused_by_its_files(folder: Path, tmp_path: Path) -> None:
    other = write_model(tmp_path / "other", seed=1)
    with pytest.raises(AdapterError, match=r"(?s)judge was trained on another base.*model\.safetensors: has other"):
        train(judged(other, folder, "judge"))


def test_what_is_no_reward_model_is_refused(tiny_model: Path, folder: Path) -> None:
    with pytest.raises(AdapterError, match="sft is not the adapter of a reward model"):
        train(judged(tiny_model, folder, "sft"))
    with pytest.raises(AdapterError, match=r"nothing: no adapter_config\.json there"):
        train(judged(tiny_model, folder, "nothing"))


def test_weights_that_cannot_be_shared_are_refused(tiny_model: Path, folder: Path) -> None:
    with pytest.raises(ConfigError, match="shares the base's weights, but transformers computes the base"):
        train(judged(tiny_model, folder, "judge", "backend=hf"))
    with pytest.raises(ConfigError, match="method full changes that"):
        judged(tiny_model, folder, "judge", "method=full")
    with pytest.raises(ConfigError, match=r"lacks those of lora\.new_tokens"):
        judged(tiny_model, folder, "judge", "lora.new_tokens=['<x>']")


def test_a_reward_of_two_kinds_is_refused(tiny_model: Path, folder: Path) -> None:
    with pytest.raises(ConfigError, match="has metric and adapter; a reward is exactly one of the four"):
        judged(tiny_model, folder, "judge", f"rewards=[{{metric: exact, adapter: '{folder / 'judge'}'}}]")


def test_the_plan_counts_adapter_and_head_and_no_base(tiny_model: Path, folder: Path) -> None:
    def planned(config: RunConfig) -> Plan:
        found = plan_run(config, ignore, rows=SupposedRows(rows=8, tokens=16, longest=16))
        assert isinstance(found, Plan)
        return found

    alone = planned(judged(tiny_model, folder, "judge", "rewards=[{metric: exact}]")).choice.memory
    beside = planned(judged(tiny_model, folder, "judge")).choice.memory
    size = (folder / "judge" / "adapter_model.safetensors").stat().st_size
    assert 0.7 * size < beside.adapters - alone.adapters < size, "the file has a header too"
    assert beside.adapters - alone.adapters == alone.adapters + 4 * 64, "an equal adapter, and the head"
    assert beside.base == alone.base
    assert beside.phases["scoring"] > beside.phases["training"] - beside.activations - beside.logits - beside.workspace
