"""Unsloth's CPU path. Runs in an environment of its own; see compare.py."""

from __future__ import annotations

import tempfile

import unsloth  # noqa: F401  it wants to be imported before what it patches

# isort: split
import torch
from datasets import Dataset
from measure import (
    ALPHA,
    MAX_LENGTH,
    RANK,
    TARGETS,
    Clock,
    Record,
    Task,
    parse_task,
    peak_rss_mb,
    read_rows,
    versions,
    write_record,
)
from supervise import EndOfStep, common_arguments, steps_of
from trl import SFTConfig, SFTTrainer
from unsloth import FastLanguageModel


def run(task: Task, scratch: str) -> Record:
    """Train and measure."""
    torch.set_num_threads(task.threads)
    checkpointing = "unsloth" if task.checkpointing else False
    model, tokenizer = FastLanguageModel.from_pretrained(
        str(task.model.resolve()),
        max_seq_length=MAX_LENGTH,
        load_in_4bit=task.quantized,
        dtype=getattr(torch, task.dtype),
        use_gradient_checkpointing=checkpointing,
    )
    model = FastLanguageModel.get_peft_model(
        model,
        r=RANK,
        lora_alpha=ALPHA,
        lora_dropout=0,
        bias="none",
        target_modules=list(TARGETS),
        use_gradient_checkpointing=checkpointing,
    )
    clock = Clock()
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(
            **common_arguments(task, scratch),
            max_length=MAX_LENGTH,
            bf16=task.dtype == "bfloat16",
            completion_only_loss=True,
            train_sampling_strategy="sequential",
            # By default SFTConfig switches it on, whatever the model was prepared with.
            gradient_checkpointing=task.checkpointing,
        ),
        train_dataset=Dataset.from_list(read_rows(task.rows)),
        processing_class=tokenizer,
        callbacks=[EndOfStep(clock)],
    )
    trainer.train()
    return Record(
        steps=steps_of(trainer, clock),
        peak_rss_mb=peak_rss_mb(),
        versions=versions("unsloth", "unsloth_zoo", "trl", "peft", "transformers", "bitsandbytes", "torch"),
    )


def main() -> None:
    """Run the task of the command line."""
    task = parse_task(__doc__)
    with tempfile.TemporaryDirectory() as scratch:
        write_record(task.result, run(task, scratch))


if __name__ == "__main__":
    main()
