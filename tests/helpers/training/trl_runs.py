"""Runs of TRL over rows that veneer trains too, as the comparisons of losses need them; only where TRL is installed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from helpers.rows.preference_rows import lora_factors
from veneer.adapters.layers.score import INITIAL_DEVIATION
from veneer.data.micro_batches.orders import order
from veneer.events import StepDone

STEPS, ROWS, IN_STEP = 20, 40, 8
"""Steps of a run beside TRL's, rows of its file, and those of a step."""
SETTINGS = (f"train.steps={STEPS}", f"train.examples_per_step={IN_STEP}", "train.schedule=constant", "train.warmup=0")
"""The settings of veneer's run; the others are those of `tiny.run_config`."""


def turns(row: Mapping[str, Any]) -> dict[str, Any]:
    """A pair of texts as turns."""
    return {
        "prompt": [{"role": "user", "content": row["prompt"]}],
        **{key: [{"role": "assistant", "content": row[key]}] for key in ("chosen", "rejected")},
    }


def in_order(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """ROWS rows as veneer's run takes them, epoch by epoch."""
    return [rows[at] for epoch in range(STEPS * IN_STEP // ROWS) for at in order(ROWS, seed=0, epoch=epoch)]


LORA = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear"}
"""The settings of an adapter that is that of `tiny.run_config`."""


def writing_policy(model: Path) -> Any:
    """PEFT's adapter over a model in float32, with the first factors of veneer's run."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    torch.manual_seed(0)
    return get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", **LORA))


def scoring_policy(model: Path) -> Any:
    """PEFT's reward model over a model in float32, with the first factors and the new head of veneer's run, which are
    drawn one after the other."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForSequenceClassification

    base = AutoModelForSequenceClassification.from_pretrained(model, num_labels=1, dtype=torch.float32)
    torch.manual_seed(0)
    policy = get_peft_model(base, LoraConfig(task_type="SEQ_CLS", modules_to_save=["score"], **LORA))
    score_head(policy).data.normal_(std=INITIAL_DEVIATION)
    return policy


def score_head(policy: Any) -> Tensor:
    """The weight of the head that is trained."""
    weight = policy.base_model.model.score.modules_to_save["default"].weight
    assert isinstance(weight, Tensor)
    return weight


def trained_by_trl(
    trainer_of: Any,
    config_of: Any,
    model: Path,
    rows: Sequence[Mapping[str, Any]],
    output: Path,
    policy: Any = None,
    **settings: Any,
) -> tuple[list[dict[str, float]], dict[str, Tensor]]:
    """TRL's run: its log, and the adapter's weights by the names that they have on veneer's model.

    Args:
        trainer_of, config_of: the trainer and its configuration.
        model: the model's folder.
        rows: in the order in which they are trained.
        output: a folder for what it writes.
        policy: what is trained; by default an adapter that writes.
        settings: of the configuration.
    """
    from datasets import Dataset
    from transformers import AutoTokenizer

    policy = writing_policy(model) if policy is None else policy
    trainer = trainer_of(
        model=policy,
        args=config_of(
            output_dir=str(output), per_device_train_batch_size=IN_STEP, max_steps=STEPS, learning_rate=0.01,
            lr_scheduler_type="constant", warmup_steps=0, logging_steps=1, report_to="none", save_strategy="no",
            bf16=False, use_cpu=True, max_grad_norm=1.0, gradient_checkpointing=False, weight_decay=0.0,
            adam_epsilon=1e-8, train_sampling_strategy="sequential", **settings,
        ),
        train_dataset=Dataset.from_list([dict(row) for row in rows]),
        processing_class=AutoTokenizer.from_pretrained(model),
    )  # fmt: skip
    trainer.train()
    return [line for line in trainer.state.log_history if "loss" in line], lora_factors(policy)


def assert_same_course(
    steps: Sequence[StepDone],
    log: Sequence[Mapping[str, float]],
    names: Sequence[str],
    logps: Sequence[str] = ("logps/chosen", "logps/rejected"),
) -> None:
    """Losses and metrics of all steps are those of TRL to 1e-3, log-probabilities to 1e-4 of what they are."""
    assert len(log) == len(steps) == STEPS
    for step, line in zip(steps, log, strict=True):
        assert step.loss == pytest.approx(line["loss"], abs=1e-3), step.step
        for name in names:
            assert step.metrics[name] == pytest.approx(line[name], abs=1e-3), (step.step, name)
        for name in logps:
            assert step.metrics[name] == pytest.approx(line[name], rel=1e-4), (step.step, name)


def assert_same_adapter(folder: Path, weights: Mapping[str, Tensor]) -> None:
    """The adapter of veneer's run is TRL's to 1e-3."""
    for name, tensor in load_file(folder / "adapter_model.safetensors").items():
        assert float((tensor - weights[name.removeprefix("base_model.model.")]).abs().max()) < 1e-3, name
