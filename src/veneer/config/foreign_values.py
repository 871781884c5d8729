"""Values that settings have in transformers, TRL, PEFT, Unsloth, Axolotl or LLaMA-Factory, and veneer's for the same.

A user who brings a configuration along first learns veneer's keys (`veneer.config.migration`) and then gives them the
values of before, such as `adamw_torch`. Such a value is refused like every wrong one, and the error names veneer's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_OPTIMIZERS = {
    "adamw_torch adamw_torch_fused adamw_hf adamw_apex_fused adam adamw_anyprecision": "adamw",
    "adamw_8bit adamw_bnb_8bit adamw_torch_8bit": "adamw8bit",
    "paged_adamw_32bit": "paged_adamw",
    "paged_adamw_8bit": "paged_adamw8bit",
    "lion_32bit lion_8bit paged_lion_32bit paged_lion_8bit": "lion",
}
_SCHEDULES = {
    "constant_with_warmup": "constant, with train.warmup",
    "cosine_with_min_lr cosine_warmup_with_min_lr": "cosine, with train.min_rate",
    "cosine_with_restarts": "cosine, without restarts",
}
_DTYPES = {
    "bf16 torch.bfloat16": "bfloat16",
    "fp16 half torch.float16": "float16",
    "fp32 float torch.float32": "float32",
}
_GROUPS: dict[str, dict[str, str]] = {
    "method": {"dora": "lora, with lora.variant=dora"},
    "objective": {"pt": "pretraining", "rm reward_modeling": "reward", "gkd": "distillation"},
    "quant.scheme": {"4bit 4-bit bnb_4bit": "nf4", "8bit 8-bit bnb_8bit": "int8"},
    "lora.init": {"true": "kaiming"},
    "lora.bias": {"true": "all", "false": "none"},
    "lora.scaling": {"true": "rslora", "false": "standard"},
    "lora.target_modules": {"all linear all_linear": "all-linear"},
    "train.publish": {"true": "best", "false": "last"},
    "train.optimizer": _OPTIMIZERS,
    "train.schedule": _SCHEDULES,
    "compute.dtype": _DTYPES,
    "compute.recompute": {"true unsloth": "layers", "false": "never"},
}
"""For each of veneer's keys: values of other programs, and veneer's value."""

FOREIGN_VALUES: Mapping[str, Mapping[str, str]] = {
    key: {word: ours for words, ours in group.items() for word in words.split()} for key, group in _GROUPS.items()
}
"""Veneer's values by the key and the value of another program."""


def veneers_value(key: str, value: Any) -> str | None:
    """Veneer's value for a value that another program has under the setting `key`; None if no known program has it.

    Args:
        key: the dotted key in veneer.
        value: the value that was given.
    """
    return FOREIGN_VALUES.get(key, {}).get(str(value).lower())
