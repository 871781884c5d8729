"""TRL + PEFT on the CPU: preferences and rewards. Runs in an environment of its own; see preference_peers.py."""

from __future__ import annotations

import tempfile
from typing import Any

import torch
from datasets import Dataset
from measure import (
    ALPHA,
    ANSWER_TOKENS,
    ANSWERS,
    MAX_LENGTH,
    RANK,
    Clock,
    Record,
    Step,
    Task,
    parse_task,
    peak_rss_mb,
    read_rows,
    versions,
    write_record,
)
from peft import LoraConfig
from supervise import EndOfStep, common_arguments
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer, KTOConfig, KTOTrainer


def exact(completions: list[list[dict[str, str]]], answer: list[str], **_: Any) -> list[float]:
    """Whether an answer is the right one."""
    return [
        float(turns[-1]["content"].strip() == right.strip()) for turns, right in zip(completions, answer, strict=True)
    ]


TRAINERS: dict[str, tuple[Any, Any, dict[str, Any], dict[str, Any]]] = {
    "dpo": (DPOTrainer, DPOConfig, {"max_length": MAX_LENGTH, "train_sampling_strategy": "sequential"}, {}),
    "kto": (KTOTrainer, KTOConfig, {"max_length": MAX_LENGTH, "train_sampling_strategy": "sequential"}, {}),
    "grpo": (
        GRPOTrainer,
        GRPOConfig,
        {
            "num_generations": ANSWERS,
            "max_completion_length": ANSWER_TOKENS,
            "steps_per_generation": 1,
            "shuffle_dataset": False,
            "loss_type": "dapo",
        },
        {"reward_funcs": exact},
    ),
}
"""By objective: trainer, configuration, and the settings of either."""


def run(task: Task, scratch: str) -> Record:
    """Train and measure."""
    torch.set_num_threads(task.threads)
    model = AutoModelForCausalLM.from_pretrained(task.model, dtype=torch.bfloat16, attn_implementation="sdpa")
    trainer_of, config_of, settings, arguments = TRAINERS[task.objective]
    clock = Clock()
    trainer = trainer_of(
        model=model,
        args=config_of(
            **common_arguments(task, scratch, ANSWERS if task.objective == "grpo" else 1),
            use_cpu=True,
            bf16=True,
            gradient_checkpointing=task.checkpointing,
            **settings,
        ),
        train_dataset=Dataset.from_list(read_rows(task.rows)),
        processing_class=AutoTokenizer.from_pretrained(task.model),
        callbacks=[EndOfStep(clock)],
        peft_config=LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear", task_type="CAUSAL_LM"),
        **arguments,
    )
    trainer.train()
    log = [entry for entry in trainer.state.log_history if "loss" in entry]
    before, steps = 0, []
    for (wall, cpu), entry in zip(clock.spans, log, strict=True):
        tokens = int(entry["num_tokens"])
        steps.append(Step(wall=wall, cpu=cpu, tokens=tokens - before, supervised=0, loss=entry["loss"]))
        before = tokens
    return Record(steps=steps, peak_rss_mb=peak_rss_mb(), versions=versions("trl", "peft", "transformers", "torch"))


def main() -> None:
    """Run the task of the command line."""
    task = parse_task(__doc__)
    with tempfile.TemporaryDirectory() as scratch:
        write_record(task.result, run(task, scratch))


if __name__ == "__main__":
    main()
