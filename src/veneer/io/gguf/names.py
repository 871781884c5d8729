"""Names of a model's tensors in Hugging Face checkpoints and in GGUF files: one table for each family.

A row of the table has both names of a tensor, and its shape. A Hugging Face name with a `*` stands for several tensors.
They are stacked: the star is 0, 1, … along the first dimension of the GGUF tensor.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
from torch import Tensor


class Head(Enum):
    """How llama.cpp finds the head of a tied model."""

    OPTIONAL = "optional"
    """A file without `output.weight` is tied."""
    ALWAYS = "always"
    """llama.cpp asks for `output.weight`: a tied model is written with the embedding a second time."""
    NEVER = "never"
    """llama.cpp always uses the embedding, so an untied model cannot be written."""


@dataclass(frozen=True, slots=True)
class TensorRow:
    """One tensor of a layer, or of the model."""

    theirs: str
    """The module in a Hugging Face checkpoint, after `model.layers.N.` in the rows of a layer."""
    ours: str
    """The module in a GGUF file, after `blk.N.` in the rows of a layer."""
    shape: tuple[str, ...]
    """The shape, as names of sizes (see `sizes`)."""
    when: str = ""
    """A switch of the configuration that the tensor depends on; with a `!` before it, the tensor exists without it."""
    bare: bool = False
    """Whether the Hugging Face name is that of a parameter, so that no `.weight` follows."""


@dataclass(frozen=True, slots=True)
class BiasRow:
    """The biases of some rows of the table."""

    of: tuple[str, ...]
    """The GGUF names of these rows."""
    key: str = ""
    """The switch of the configuration; empty if the family always has these biases."""
    carried: bool = True
    """Whether llama.cpp has a place for these biases."""


@dataclass(frozen=True, slots=True)
class Piece:
    """One tensor of a GGUF file, and the tensors that it is made of."""

    name: str
    shape: tuple[int, ...]
    """The shape, row-major."""
    sources: tuple[str, ...]
    """The Hugging Face names; `stacked` ones are stacked along the first dimension."""
    stacked: bool = False
    """Whether each source is one entry of the tensor, even if there is only one (a mixture of one expert)."""
    heads: int = 0
    """How many heads have interleaved rows in the file, or 0. llama.cpp turns neighbouring pairs, Hugging Face the two
    halves of a head."""
    offset: float = 0.0
    """The number that is added to the values in the file."""


_NORM, _HEAD_NORM = ("hidden",), ("head_dim",)
_Q, _K = ("query", "hidden"), ("key", "hidden")

ATTENTION = (
    TensorRow("self_attn.q_proj", "attn_q", _Q),
    TensorRow("self_attn.k_proj", "attn_k", _K),
    TensorRow("self_attn.v_proj", "attn_v", _K),
    TensorRow("self_attn.o_proj", "attn_output", ("hidden", "query")),
)
FEED_FORWARD = (
    TensorRow("mlp.gate_proj", "ffn_gate", ("inner", "hidden")),
    TensorRow("mlp.up_proj", "ffn_up", ("inner", "hidden")),
    TensorRow("mlp.down_proj", "ffn_down", ("hidden", "inner")),
)
NORMS = (
    TensorRow("input_layernorm", "attn_norm", _NORM),
    TensorRow("post_attention_layernorm", "ffn_norm", _NORM),
)
QK_NORMS = (
    TensorRow("self_attn.q_norm", "attn_q_norm", _HEAD_NORM),
    TensorRow("self_attn.k_norm", "attn_k_norm", _HEAD_NORM),
)
WIDE_QK_NORMS = (
    TensorRow("self_attn.q_norm", "attn_q_norm", ("query",)),
    TensorRow("self_attn.k_norm", "attn_k_norm", ("key",)),
)
AFTER_NORMS = (
    TensorRow("post_attention_layernorm", "post_attention_norm", _NORM),
    TensorRow("post_feedforward_layernorm", "post_ffw_norm", _NORM),
)
GEMMA_NORMS = (
    TensorRow("input_layernorm", "attn_norm", _NORM),
    TensorRow("pre_feedforward_layernorm", "ffn_norm", _NORM),
    *AFTER_NORMS,
)
COHERE_NORMS = (
    TensorRow("input_layernorm", "attn_norm", _NORM),
    TensorRow("self_attn.q_norm", "attn_q_norm", ("heads", "head_dim"), when="use_qk_norm"),
    TensorRow("self_attn.k_norm", "attn_k_norm", ("kv_heads", "head_dim"), when="use_qk_norm"),
)
STABLELM_NORMS = (
    TensorRow("input_layernorm", "attn_norm", _NORM),
    TensorRow("post_attention_layernorm", "ffn_norm", _NORM, when="!use_parallel_residual"),
    TensorRow("self_attn.q_layernorm.norms.*", "attn_q_norm", ("heads", "head_dim"), when="qk_layernorm"),
    TensorRow("self_attn.k_layernorm.norms.*", "attn_k_norm", ("kv_heads", "head_dim"), when="qk_layernorm"),
)
FUSED = (
    TensorRow("self_attn.qkv_proj", "attn_qkv", ("query_and_keys", "hidden")),
    TensorRow("self_attn.o_proj", "attn_output", ("hidden", "query")),
    TensorRow("mlp.gate_up_proj", "ffn_up", ("twice_inner", "hidden")),
    TensorRow("mlp.down_proj", "ffn_down", ("hidden", "inner")),
)
EXPERTS = (
    TensorRow("mlp.gate", "ffn_gate_inp", ("experts", "hidden")),
    TensorRow("mlp.experts.*.gate_proj", "ffn_gate_exps", ("experts", "expert_inner", "hidden")),
    TensorRow("mlp.experts.*.up_proj", "ffn_up_exps", ("experts", "expert_inner", "hidden")),
    TensorRow("mlp.experts.*.down_proj", "ffn_down_exps", ("experts", "hidden", "expert_inner")),
)
GPT_OSS = (
    TensorRow("input_layernorm", "attn_norm", _NORM),
    TensorRow("post_attention_layernorm", "post_attention_norm", _NORM),
    TensorRow("self_attn.sinks", "attn_sinks", ("heads",), bare=True),
    TensorRow("mlp.router", "ffn_gate_inp", ("experts", "hidden")),
    *EXPERTS[1:],
)
QKV_BIAS = ("attn_q", "attn_k", "attn_v")
ALL_BIAS = (*QKV_BIAS, "attn_output")
EXPERT_BIAS = ("ffn_gate_inp", "ffn_gate_exps", "ffn_up_exps", "ffn_down_exps")
MLP_BIAS = ("ffn_gate", "ffn_up", "ffn_down")

EMBEDDING, HEAD, FINAL_NORM = "model.embed_tokens.weight", "lm_head.weight", "model.norm"
TOKEN_EMBEDDING, OUTPUT, OUTPUT_NORM = "token_embd.weight", "output.weight", "output_norm"


@dataclass(frozen=True, kw_only=True, slots=True)
class Names:
    """The table of the tensors of a family."""

    rows: tuple[TensorRow, ...]
    """The tensors of a layer."""
    biases: tuple[BiasRow, ...] = ()
    head: Head = Head.OPTIONAL
    interleaved: bool = False
    """Whether the rows of q and k are interleaved in the file."""
    norm_offset: float = 0.0
    """By how much the norm weights of the file exceed the checkpoint's (Gemma applies 1 + w)."""


def sizes(config: Mapping[str, Any]) -> dict[str, int]:
    """Every size that a row may name, from a complete configuration (see `config.completed`)."""
    heads, kv_heads, head_dim = (int(config[key]) for key in ("num_attention_heads", "num_key_value_heads", "head_dim"))
    inner = int(config["intermediate_size"])
    experts = config.get("num_experts", config.get("num_local_experts", 0))
    return {
        "experts": int(experts),
        "expert_inner": int(config.get("moe_intermediate_size") or inner),
        "hidden": int(config["hidden_size"]),
        "inner": inner,
        "twice_inner": 2 * inner,
        "heads": heads,
        "kv_heads": kv_heads,
        "head_dim": head_dim,
        "query": heads * head_dim,
        "key": kv_heads * head_dim,
        "query_and_keys": (heads + 2 * kv_heads) * head_dim,
        "vocab": int(config["vocab_size"]),
    }


def pieces(names: Names, config: Mapping[str, Any]) -> list[Piece]:
    """Every tensor of the model that `config` describes, in the order of a file.

    Args:
        names: the table of the family.
        config: a complete configuration.
    """
    extent = sizes(config)
    table = (extent["vocab"], extent["hidden"])
    biased = {row for bias in names.biases if not bias.key or config[bias.key] for row in bias.of}
    found = [Piece(TOKEN_EMBEDDING, table, (EMBEDDING,))]
    for layer in range(int(config["num_hidden_layers"])):
        for row in names.rows:
            if row.when and bool(config[row.when.removeprefix("!")]) is row.when.startswith("!"):
                continue
            found += _of_row(names, row, extent, f"model.layers.{layer}.", f"blk.{layer}.", biased)
    found += _of_row(names, TensorRow(FINAL_NORM, OUTPUT_NORM, _NORM), extent, "", "", biased)
    if not config["tie_word_embeddings"]:
        found.append(Piece(OUTPUT, table, (HEAD,)))
    elif names.head is Head.ALWAYS:
        found.append(Piece(OUTPUT, table, (EMBEDDING,)))
    return found


def _of_row(
    names: Names, row: TensorRow, extent: Mapping[str, int], their_prefix: str, our_prefix: str, biased: set[str]
) -> list[Piece]:
    shape = tuple(extent[name] for name in row.shape)
    heads = {"attn_q": extent["heads"], "attn_k": extent["kv_heads"]}.get(row.ours, 0) if names.interleaved else 0
    offset = names.norm_offset if row.ours.endswith("norm") else 0.0
    found = []
    # A bias has no inputs; the biases of stacked matrices are stacked too.
    for suffix, extents in (("weight", shape), ("bias", shape[:-1] if len(shape) > 1 else shape)):
        if suffix == "bias" and row.ours not in biased:
            continue
        source = f"{their_prefix}{row.theirs}" + ("" if row.bare else f".{suffix}")
        stacked = "*" in source
        sources = tuple(source.replace("*", str(index)) for index in range(shape[0])) if stacked else (source,)
        name = f"{our_prefix}{row.ours}.{suffix}"
        found.append(Piece(name, extents, sources, stacked=stacked, heads=heads, offset=offset))
    return found


def interleaved(tensor: Tensor, heads: int) -> Tensor:
    """Interleave the two halves of each head's rows: row i of the result is the model's row `row_order(…)[i]`."""
    return tensor[row_order(len(tensor), heads)]


def row_order(rows: int, heads: int) -> Tensor:
    """The row of the model for each row of the file, if the halves of each head are interleaved."""
    return torch.arange(rows).view(heads, 2, rows // heads // 2).transpose(1, 2).reshape(rows)
