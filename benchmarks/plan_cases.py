"""Models and runs of which the plan's memory is measured: see plan_grid.py."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any


@dataclass(frozen=True, slots=True)
class Case:
    """One run."""

    shape: str
    method: str
    dtype: str
    length: int
    """Longest row, in tokens; the others are between half of it and all of it."""
    rank: int
    recompute: str
    micro_batch: int
    rows_per_step: int = 4
    more: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Further settings, by section."""
    model_type: str = "llama"
    objective: str = "sft"
    """What is minimised; one of preferences has rows of two answers, each of the length."""
    teacher: str = ""
    """Shape of the teacher of a distillation."""

    @property
    def name(self) -> str:
        """The run in a line."""
        model = self.shape if self.model_type == "llama" else self.model_type
        words = [model, self.method, self.dtype, f"length {self.length} rank {self.rank} {self.recompute}"]
        words += [str(self.micro_batch)]
        words += [self.objective] if self.objective != "sft" else []
        words += [f"by {self.teacher}"] if self.teacher else []
        words += [f"{key} {value}" for section in self.more.values() for key, value in section.items()]
        return " ".join(words)


def _llama(hidden: int, inner: int, layers: int, heads: int, kv_heads: int, vocab: int, tied: bool) -> dict[str, Any]:
    return {
        "hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": layers, "num_attention_heads": heads,
        "num_key_value_heads": kv_heads, "vocab_size": vocab, "tie_word_embeddings": tied,
        "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "bos_token_id": 0, "eos_token_id": 2,
    }  # fmt: skip


SHAPES: dict[str, dict[str, Any]] = {
    "m3": _llama(128, 352, 4, 4, 2, 2048, True),
    "m8": _llama(256, 688, 6, 4, 4, 8192, False),
    "m30": _llama(384, 1024, 12, 6, 2, 16384, True),
    "m135": _llama(576, 1536, 30, 9, 3, 49152, True),
    "m360": _llama(960, 2560, 32, 15, 5, 49152, True),
    "m45": _llama(512, 1408, 12, 8, 4, 32000, True),
    "wide": _llama(1536, 6144, 6, 12, 12, 32000, True),
    "large vocabulary": _llama(576, 1536, 8, 9, 3, 128256, False),
}
"""Sizes. m135 and m360 have those of SmolLM2-135M and SmolLM2-360M."""

_WINDOW = {"head_dim": 64, "sliding_window": 128}
_GEMMA = _WINDOW | {"query_pre_attn_scalar": 64, "hidden_activation": "gelu_pytorch_tanh"}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"hidden_act": "silu"},
    "gemma2": _GEMMA | {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0},
    "gemma3_text": _GEMMA
    | {"layer_types": (["sliding_attention"] * 5 + ["full_attention"]) * 2}
    | {"rope_parameters": {
        "full_attention": {"rope_type": "default", "rope_theta": 1e6},
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    }},
    "phi3": {"hidden_act": "silu", "tie_word_embeddings": False},
    "qwen3": {"hidden_act": "silu", "head_dim": 64},
    "olmo2": {"hidden_act": "silu", "tie_word_embeddings": False},
    "cohere": {"hidden_act": "silu", "logit_scale": 0.06, "layer_norm_eps": 1e-5},
    "stablelm": {"hidden_act": "silu", "layer_norm_eps": 1e-5, "partial_rotary_factor": 0.25},
    "mixtral": {"hidden_act": "silu", "num_hidden_layers": 6, "intermediate_size": 1024}
    | {"num_local_experts": 8, "num_experts_per_tok": 2},
    "qwen3_moe": {"hidden_act": "silu", "num_hidden_layers": 8, "head_dim": 64, "moe_intermediate_size": 256}
    | {"num_experts": 32, "num_experts_per_tok": 4, "decoder_sparse_step": 1, "mlp_only_layers": []}
    | {"norm_topk_prob": True},
    "gpt_oss": _WINDOW
    | {"hidden_act": "silu", "num_hidden_layers": 6, "intermediate_size": 512, "tie_word_embeddings": False}
    | {"num_local_experts": 8, "num_experts_per_tok": 2}
    | {"layer_types": ["sliding_attention", "full_attention"] * 3},
}  # fmt: skip
"""What a family has beside the sizes, or in place of them."""


def config_of(shape: str, model_type: str = "llama") -> dict[str, Any]:
    """The config.json of a model."""
    return {"model_type": model_type} | SHAPES[shape] | FAMILIES[model_type]


def grid() -> list[Case]:
    """Every method with and without recomputation, over shapes, lengths, ranks, dtypes and micro-batches."""
    cases = []
    for shape in ("m3", "m8", "m30"):
        for number, (length, rank, micro_batch) in enumerate(
            ((64, 4, 256), (256, 16, 512), (512, 64, 2048), (2048, 8, 2048))
        ):
            dtype = "float32" if number % 2 else "bfloat16"
            other = "bfloat16" if number % 2 else "float32"
            cases += [
                Case(shape, "lora", dtype, length, rank, "never", micro_batch),
                Case(shape, ("qlora", "full")[number % 2], other, length, rank, "layers", micro_batch),
                Case(shape, ("full", "qlora")[number % 2], "bfloat16", length, rank, "never", micro_batch),
            ]
    cases += [
        Case("m135", "lora", "bfloat16", 256, 16, "never", 1024),
        Case("m135", "lora", "bfloat16", 1024, 64, "layers", 1024, 2),
        Case("m135", "lora", "float32", 256, 8, "never", 512),
        Case("m135", "lora", "bfloat16", 128, 8, "never", 512, 4, {"lora": {"dropout": 0.1}}),
        Case("m135", "qlora", "bfloat16", 256, 16, "never", 1024),
        Case("m135", "qlora", "bfloat16", 512, 16, "never", 512, 2),
        Case("m135", "qlora", "bfloat16", 2048, 16, "layers", 2048, 1),
        Case("m135", "qlora", "float32", 64, 4, "layers", 256),
        Case("m135", "full", "bfloat16", 256, 16, "never", 512, 2),
        Case("m135", "full", "bfloat16", 256, 16, "layers", 1024, 4),
        Case("m135", "full", "float32", 128, 16, "never", 256, 2),
        Case("m360", "qlora", "bfloat16", 256, 16, "layers", 512, 2),
        Case("m360", "qlora", "bfloat16", 256, 16, "never", 512, 2),
        Case("m360", "lora", "bfloat16", 256, 16, "never", 512, 2),
    ]
    return cases


def pairs() -> list[Case]:
    """Runs on pairs of a chosen and a rejected answer."""
    head = {"lora": {"target_modules": ["q_proj", "lm_head"]}}
    return [
        Case("m30", "lora", "bfloat16", 256, 16, "never", 1024, objective="dpo"),
        Case("m30", "qlora", "float32", 256, 16, "layers", 1024, objective="dpo"),
        Case("m135", "lora", "bfloat16", 256, 16, "never", 1024, objective="dpo"),
        Case("m135", "qlora", "bfloat16", 512, 16, "never", 1024, objective="dpo"),
        Case("m135", "lora", "float32", 128, 16, "never", 512, objective="dpo"),
        Case("m30", "full", "bfloat16", 128, 16, "never", 512, 2, objective="dpo"),
        Case("m30", "lora", "bfloat16", 256, 16, "never", 1024, 4, head, objective="dpo"),
        Case("m30", "lora", "bfloat16", 256, 16, "never", 1024, objective="reward"),
        Case("m45", "qlora", "float32", 256, 16, "layers", 1024, objective="reward"),
    ]  # fmt: skip


def taught() -> list[Case]:
    """Runs with a teacher: beside the student, or asked before."""
    before = {"distillation": {"top_k": 64}}
    distilled = partial(Case, objective="distillation")
    return [
        distilled("m30", "lora", "bfloat16", 256, 16, "never", 1024, teacher="m45"),
        distilled("m30", "qlora", "float32", 256, 16, "layers", 1024, teacher="m30"),
        distilled("m45", "lora", "float32", 256, 16, "never", 512, teacher="m135"),
        distilled("m30", "lora", "bfloat16", 256, 16, "never", 1024, 4, before, teacher="m135"),
        distilled("m30", "full", "float32", 128, 16, "never", 512, 2, before, teacher="m45"),
    ]


def others() -> list[Case]:
    """What the grid leaves out: kinds of adapters, optimisers, schemes, long rows, other sizes and families."""
    dora: dict[str, dict[str, Any]] = {"lora": {"variant": "dora"}}
    lora: list[dict[str, dict[str, Any]]] = [
        dora, {"lora": {"init": "pissa_fast"}}, {"lora": {"init": "eva"}},
        {"lora": {"modules_to_save": ["embed_tokens"]}},
        {"lora": {"target_modules": ["q_proj", "v_proj", "embed_tokens"]}},
        {"lora": {"target_modules": ["q_proj", "lm_head"]}}, {"lora": {"new_tokens": ["<a>", "<b>"]}},
        {"lora": {"factors": "b"}}, {"lora": {"target_modules": ["q_proj"]}},
        {"lora": {"layers_to_transform": [28, 29]}}, {"compute": {"products": "int8"}}, {"data": {"held_out": 0.2}},
    ]  # fmt: skip
    qlora: list[dict[str, dict[str, Any]]] = [
        dora, {"lora": {"init": "olora"}}, {"lora": {"init": "loftq"}}, {"quant": {"scheme": "int8"}},
        {"quant": {"scheme": "fp4", "double_quant": False, "block": 4096}}, {"compute": {"products": "int8"}},
    ]  # fmt: skip
    optimizers = [
        {"train": {"optimizer": name, "learning_rate": 1e-4}} for name in ("adafactor", "adamw8bit", "lion", "sgd")
    ]
    long = {"data": {"max_length": 4096}}
    return [
        *pairs(),
        *(Case("m135", "lora", "bfloat16", 256, 16, "never", 1024, more=more) for more in lora),
        *(Case("m135", "qlora", "bfloat16", 256, 16, "never", 1024, more=more) for more in qlora),
        *(Case("m135", "full", "bfloat16", 256, 16, "never", 512, 2, more) for more in optimizers),
        Case("m135", "lora", "bfloat16", 256, 16, "layers", 1024, more=dora),
        Case("m30", "lora", "bfloat16", 512, 4, "never", 1024, more=dora),
        Case("m135", "lora", "bfloat16", 256, 192, "never", 1024),
        Case("m135", "qlora", "bfloat16", 256, 128, "layers", 1024),
        Case("m135", "lora", "bfloat16", 256, 1, "never", 1024),
        Case("m135", "lora", "bfloat16", 4000, 16, "never", 4096, 1, long),
        Case("m135", "qlora", "bfloat16", 4000, 16, "layers", 4096, 1, long),
        Case("large vocabulary", "lora", "bfloat16", 256, 16, "never", 1024),
        Case("large vocabulary", "qlora", "bfloat16", 256, 16, "never", 1024),
        Case("large vocabulary", "full", "bfloat16", 128, 16, "never", 256, 2),
        Case("wide", "lora", "bfloat16", 256, 16, "never", 1024),
        Case("wide", "qlora", "bfloat16", 256, 16, "never", 1024),
        Case("wide", "qlora", "bfloat16", 256, 16, "layers", 1024),
        *(
            Case("m45", method, "bfloat16", length, 16, recompute, 1024, model_type=family)
            for family in FAMILIES
            for method, length, recompute in (("lora", 256, "never"), ("qlora", 512, "layers"), ("full", 256, "never"))
            if family != "llama" and (method != "full" or family not in ("mixtral", "qwen3_moe", "gpt_oss"))
        ),
    ]  # fmt: skip
