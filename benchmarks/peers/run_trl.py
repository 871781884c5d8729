"""TRL + PEFT (+ bitsandbytes with --quantized) on the CPU. Runs in an environment of its own; see compare.py."""

from __future__ import annotations

import tempfile

import torch
from datasets import Dataset
from measure import (
    ALPHA,
    MAX_LENGTH,
    RANK,
    Clock,
    Record,
    Task,
    parse_task,
    peak_rss_mb,
    read_rows,
    versions,
    write_record,
)
from peft import LoraConfig, PeftModel
from supervise import EndOfStep, common_arguments, steps_of
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
from trl import SFTConfig, SFTTrainer


def run(task: Task, scratch: str) -> Record:
    """Train and measure."""
    torch.set_num_threads(task.threads)
    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=getattr(torch, task.dtype),
    )
    model = AutoModelForCausalLM.from_pretrained(
        task.model,
        dtype=getattr(torch, task.dtype),
        attn_implementation="sdpa",
        quantization_config=quantization if task.quantized else None,
    )
    fresh = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear", task_type="CAUSAL_LM")
    if task.adapter is not None:
        model = PeftModel.from_pretrained(model, task.adapter, is_trainable=True)
    clock = Clock()
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(
            **common_arguments(task, scratch),
            max_length=MAX_LENGTH,
            completion_only_loss=True,
            train_sampling_strategy="sequential",
            use_cpu=True,
            # TRL's default is bfloat16; without it PEFT's products run in the adapter's float32.
            bf16=task.dtype == "bfloat16",
            gradient_checkpointing=task.checkpointing,
        ),
        train_dataset=Dataset.from_list(read_rows(task.rows)),
        processing_class=AutoTokenizer.from_pretrained(task.model),
        callbacks=[EndOfStep(clock)],
        peft_config=fresh if task.adapter is None else None,
    )
    trainer.train()
    return Record(
        steps=steps_of(trainer, clock),
        peak_rss_mb=peak_rss_mb(),
        versions=versions("trl", "peft", "transformers", "bitsandbytes", "torch"),
    )


def main() -> None:
    """Run the task of the command line."""
    task = parse_task(__doc__)
    with tempfile.TemporaryDirectory() as scratch:
        write_record(task.result, run(task, scratch))


if __name__ == "__main__":
    main()
