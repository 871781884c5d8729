"""Setups of runs, for the tests of plans."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import torch

from veneer.data.encoded.chat import Example
from veneer.enums import Method
from veneer.loading.forms import WeightForm
from veneer.model.families.choose import spec_from_hf
from veneer.planning.batch_shape import BatchShape
from veneer.planning.memory import MB, memory
from veneer.planning.setup import Setup

LLAMA_7B: dict[str, Any] = {
    "model_type": "llama", "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008,
    "num_hidden_layers": 32, "num_attention_heads": 32, "rms_norm_eps": 1e-6, "tie_word_embeddings": False,
    "max_position_embeddings": 2048,
}  # fmt: skip
LLAMA_65B = LLAMA_7B | {
    "hidden_size": 8192, "intermediate_size": 22016, "num_hidden_layers": 80, "num_attention_heads": 64,
}  # fmt: skip
SMOLLM2: dict[str, Any] = LLAMA_7B | {
    "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
    "num_attention_heads": 9, "num_key_value_heads": 3, "tie_word_embeddings": True,
}  # fmt: skip
GB = 10**9
START = 265 * MB
FORMS = {Method.LORA: WeightForm.FROZEN, Method.QLORA: WeightForm.QUANTIZED, Method.FULL: WeightForm.TRAINABLE}


@dataclass(frozen=True)
class Alike:
    """Steps of so many rows of one length (`veneer.planning.batch_shape.StepSizes`)."""

    longest: int
    rows: int = 8
    total: int = 9

    def batch_shape(self, micro_batch_tokens: int) -> BatchShape:
        return BatchShape.of_rows(self.longest, micro_batch_tokens, self.rows)


def setup(config: dict[str, Any] = SMOLLM2, method: Method = Method.LORA, **settings: Any) -> Setup:
    return Setup(spec=spec_from_hf(config), method=method, **({"dtype": torch.bfloat16} | settings))


def peak(of: Setup, cut: BatchShape, *, recompute: bool = False) -> int:
    return memory(of, cut, recompute=recompute, start=START).peak


def adapters() -> list[tuple[Any, ...]]:
    targets: tuple[Any, ...] = (
        "all-linear", ("q_proj", "v_proj"), ("o_proj", "up_proj"), ("down_proj",), r".*layers\.1\..*",
    )  # fmt: skip
    return [
        *product((Method.LORA, Method.QLORA), targets, (0.0, 0.1), (False, True)),
        (Method.FULL, "all-linear", 0.0, False),
        (Method.FULL, "all-linear", 0.0, True),
    ]


def two_documents() -> list[Example]:
    source = np.random.default_rng(0)
    sizes = (40, 33)
    return [Example(source.integers(3, 90, size).astype(np.int32), np.arange(size) > size // 2, "") for size in sizes]
