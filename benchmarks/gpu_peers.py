"""The same steps by TRL + PEFT and by Unsloth, from a random checkpoint on disk; a part of gpu.py.

Their packages are imported in the functions: each part runs in a process of its own, and Unsloth changes the others'
code, so that it must come first where it runs and nowhere else.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from gpu_shapes import (
    ALPHA,
    RANK,
    Load,
    documents,
    flops_per_token,
    random_tensor,
    row,
)

from veneer.loading.expected import expected_tensors
from veneer.model.families.choose import spec_from_hf

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
NEEDS = {"peft": ("trl", "peft", "bitsandbytes", "datasets"), "unsloth": ("unsloth", "trl", "datasets")}
"""Packages of each peer."""


def missing(part: str) -> list[str]:
    """What a peer needs and this environment lacks."""
    return [package for package in NEEDS[part] if find_spec(package) is None]


def write_checkpoint(config: dict[str, Any], folder: Path, device: torch.device) -> None:
    """A Hugging Face directory of random weights, a file a few tensors, and a tokenizer of plain numbers."""
    from safetensors.torch import save_file
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import PreTrainedTokenizerFast

    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    shapes = list(expected_tensors(spec_from_hf(config)).items())
    files: dict[str, str] = {}
    for start in range(0, len(shapes), 9):
        name = f"model-{start:05}.safetensors"
        part = {path: random_tensor(shape, device).cpu() for path, shape in shapes[start : start + 9]}
        save_file(part, folder / name, metadata={"format": "pt"})
        files |= dict.fromkeys(part, name)
    index = {"metadata": {}, "weight_map": files}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    vocabulary = {"<pad>": 0, "<s>": 1, "</s>": 2, **{str(number): number for number in range(3, config["vocab_size"])}}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<pad>"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", model_max_length=8192,
        chat_template="{% for message in messages %}{{ message['content'] }} </s>{% endfor %}",
    ).save_pretrained(folder)  # fmt: skip


def peft_model(folder: Path, quantized: bool, recompute: bool, device: torch.device, load: Load) -> tuple[Any, Any]:
    """PEFT over transformers (and bitsandbytes), and the tokenizer."""
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

    nf4 = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    ) if quantized else None  # fmt: skip
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.bfloat16, attn_implementation="sdpa", device_map={"": str(device)}, quantization_config=nf4
    )
    if quantized:
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=recompute)
    adapted = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=list(TARGETS), task_type="CAUSAL_LM")
    return get_peft_model(model, adapted), AutoTokenizer.from_pretrained(folder)


def unsloth_model(folder: Path, quantized: bool, recompute: bool, device: torch.device, load: Load) -> tuple[Any, Any]:
    """Unsloth's model and tokenizer; it finds the device by itself."""
    from unsloth import FastLanguageModel

    checkpointing = "unsloth" if recompute else False
    model, tokenizer = FastLanguageModel.from_pretrained(
        str(folder), max_seq_length=load.document, load_in_4bit=quantized, dtype=torch.bfloat16,
        use_gradient_checkpointing=checkpointing,
    )  # fmt: skip
    model = FastLanguageModel.get_peft_model(
        model, r=RANK, lora_alpha=ALPHA, lora_dropout=0, bias="none", target_modules=list(TARGETS),
        use_gradient_checkpointing=checkpointing,
    )  # fmt: skip
    return model, tokenizer


def trainer_seconds(
    model: Any, tokenizer: Any, rows: list[Any], recompute: bool, device: torch.device, load: Load
) -> list[float]:
    """Seconds of each step of TRL's trainer, all `rows` in every step, after warming up."""
    from datasets import Dataset, disable_progress_bars
    from transformers import PrinterCallback, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    ends: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            """Note when the card is done with the step."""
            on_card = device.type == "cuda"
            if on_card:
                torch.cuda.synchronize(device)
            ends.append(time.perf_counter())
            if on_card and len(ends) == load.warmup:
                torch.cuda.reset_peak_memory_stats(device)

    disable_progress_bars()
    with tempfile.TemporaryDirectory() as scratch:
        trainer = SFTTrainer(
            model=model,
            args=SFTConfig(
                output_dir=scratch, per_device_train_batch_size=len(rows), max_steps=load.warmup + load.steps,
                max_length=load.document, learning_rate=1e-4, lr_scheduler_type="constant", max_grad_norm=1.0,
                logging_strategy="no", report_to="none", save_strategy="no", disable_tqdm=True, bf16=True, seed=0,
                gradient_checkpointing=recompute, use_cpu=device.type == "cpu",
            ),
            train_dataset=Dataset.from_list([{"input_ids": x.tolist()} for x in rows] * (load.warmup + load.steps)),
            processing_class=tokenizer,
            callbacks=[Clock()],
        )  # fmt: skip
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return [b - a for a, b in zip(ends[load.warmup - 1 :], ends[load.warmup :], strict=False)]


def run_peer(
    part: str, config: dict[str, Any], folder: Path, device: torch.device, peak: float | None, load: Load
) -> None:
    """Print TRL's lines; where a number of tokens does not fit, once more with recomputation of activations."""
    spec = spec_from_hf(config)
    make = {"peft": peft_model, "unsloth": unsloth_model}[part]
    name = {"peft": "TRL + PEFT", "unsloth": "Unsloth"}[part]
    flops = flops_per_token(spec, RANK, load.document)
    for quantized in (False, True):
        method = "QLoRA" if quantized else "LoRA"
        for tokens in load.tokens:
            for recompute in (False, True):
                label = f"{name}{', recompute' if recompute else ''}"
                try:
                    model, tokenizer = make(folder, quantized, recompute, device, load)
                    rows = documents(tokens, spec.vocab_size, load.document)
                    seconds = statistics.median(trainer_seconds(model, tokenizer, rows, recompute, device, load))
                    memory = torch.cuda.max_memory_allocated(device)
                    print(row(label, method, tokens, seconds, memory, flops, peak), flush=True)
                    break
                except torch.OutOfMemoryError:
                    print(f"{label:22} {method:6} {tokens:6,} out of memory", flush=True)
                finally:
                    model = tokenizer = None
                    torch.cuda.empty_cache()
