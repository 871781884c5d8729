"""What `same_bytes.py` trains: tiny random models as Hugging Face directories, made by transformers alone, and rows."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import CONFIG_MAPPING, AutoModelForCausalLM
from transformers.utils import logging

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_COMMON: dict[str, Any] = {
    "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512,
}  # fmt: skip
_OTHER: dict[str, Any] = {
    "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 512,
}  # fmt: skip
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {**_COMMON, "tie_word_embeddings": True}),
    "qwen2": ("qwen2", {**_COMMON, "tie_word_embeddings": False}),
    "gemma2": ("gemma2", {**_COMMON, "head_dim": 32, "sliding_window": 16}),
    "mixture": ("qwen3_moe", {**_COMMON, "head_dim": 32, "num_experts": 4, "num_experts_per_tok": 2}
                | {"moe_intermediate_size": 64, "tie_word_embeddings": False}),
    "neox": ("gpt_neox", _OTHER),
}  # fmt: skip
"""Name to transformers' model type and what is set of it; `neox` is one that veneer's own decoder does not know."""


def write_inputs(folder: Path) -> None:
    """Write `folder/models/NAME` for every model, `folder/rows.jsonl` and `folder/test.jsonl`."""
    logging.disable_progress_bar()
    for number, (name, (kind, settings)) in enumerate(MODELS.items()):
        write_model(folder / "models" / name, kind, settings, seed=number)
    write_rows(folder / "rows.jsonl", 48, seed=1)
    write_rows(folder / "test.jsonl", 6, seed=2)


def write_model(path: Path, kind: str, settings: dict[str, Any], *, seed: int) -> None:
    """Write a bfloat16 model whose every tensor is random, and its tokenizer."""
    tokenizer = chat_tokenizer()
    named = {"vocab_size": tokenizer.get_vocab_size(), "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 0}
    model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[kind].from_dict(settings | named))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            drawn = 0.1 * torch.randn(parameter.shape, generator=generator)
            parameter.copy_(drawn + 1 if parameter.ndim == 1 and name.endswith("weight") else drawn)
    model.to(torch.bfloat16).save_pretrained(path)
    tokenizer.save(str(path / "tokenizer.json"))
    said = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>", "chat_template": TEMPLATE}
    (path / "tokenizer_config.json").write_text(json.dumps(said), encoding="utf-8")


def chat_tokenizer() -> Tokenizer:
    """A byte-level BPE of about 300 tokens with ChatML's control tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(
        ["user assistant What is in crate number 12? blue glass and late parcels\n" * 3], trainer
    )
    return tokenizer


def write_rows(path: Path, count: int, *, seed: int) -> None:
    """Write conversations of different lengths as JSONL."""
    source = random.Random(seed)
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            words = " ".join(
                source.choices(["parcel", "crate", "late", "blue", "glass", "the"], k=source.randint(1, 20))
            )
            messages = [{"role": "user", "content": f"{number}: {words}?"}]
            messages.append({"role": "assistant", "content": json.dumps({"crate": number % 7, "first": words[:5]})})
            file.write(json.dumps({"messages": messages}) + "\n")
