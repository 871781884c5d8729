"""Turn tensors into the bytes of a GGUF file: which type each tensor gets, and how its values are encoded."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any

import numpy as np
import torch
from gguf.constants import GGML_QUANT_SIZES
from gguf.constants import GGMLQuantizationType as Kind
from gguf.quants import quantize
from torch import Tensor

from veneer.errors import ModelError
from veneer.io.gguf.kquants import encode_q4_k, encode_q5_k, encode_q6_k

Bytes = np.ndarray[Any, np.dtype[np.uint8]]
Floats = np.ndarray[Any, np.dtype[np.float32]]
HALF_LARGEST = 65504.0
"""The largest float16 number. All block formats have float16 scales."""


class Quant(Enum):
    """The format of the matrices of a GGUF file."""

    F32 = "f32"
    F16 = "f16"
    BF16 = "bf16"
    Q8_0 = "q8_0"
    Q4_0 = "q4_0"
    Q4_K_M = "q4_k_m"


FILE_TYPES = {Quant.F32: 0, Quant.F16: 1, Quant.Q4_0: 2, Quant.Q8_0: 7, Quant.Q4_K_M: 15, Quant.BF16: 32}
"""The value of `general.file_type` (llama.cpp's `llama_ftype`)."""
_BASE = {
    Quant.F32: Kind.F32,
    Quant.F16: Kind.F16,
    Quant.BF16: Kind.BF16,
    Quant.Q8_0: Kind.Q8_0,
    Quant.Q4_0: Kind.Q4_0,
    Quant.Q4_K_M: Kind.Q4_K,
}
_NARROW = {Kind.Q4_K: Kind.Q5_0, Kind.Q5_K: Kind.Q5_1, Kind.Q6_K: Kind.Q8_0}
"""The formats that replace these if the length of the rows is not a multiple of 256."""
_OWN: dict[Kind, Callable[[Floats], Bytes]] = {
    Kind.Q4_K: encode_q4_k,
    Kind.Q5_K: encode_q5_k,
    Kind.Q6_K: encode_q6_k,
}
_ROUNDED = {Kind.F32: torch.float32, Kind.F16: torch.float16, Kind.BF16: torch.bfloat16}
_LAYER = re.compile(r"blk\.(\d+)\.")


def kind_of(name: str, shape: tuple[int, ...], quant: Quant, values: Mapping[str, Any], *, tied: bool) -> Kind:
    """Choose the type of one tensor as llama.cpp's own quantiser does.

    Args:
        name: the tensor's name in the GGUF file.
        shape: its shape, row-major.
        quant: the format of the file.
        values: the metadata of the file, by full key.
        tied: whether the embedding is also the head.
    """
    if len(shape) < 2 or not name.endswith(".weight") or "_norm." in name or "ffn_gate_inp." in name:
        return Kind.F32
    kind = _BASE[quant]
    if kind not in _ROUNDED:
        if name == "output.weight" or (tied and name == "token_embd.weight"):
            kind = Kind.Q8_0 if kind is Kind.Q8_0 else Kind.Q6_K
        elif quant is Quant.Q4_K_M:
            kind = _mixed(name, values)
    return fitting(kind, shape[-1])


def fitting(kind: Kind, columns: int) -> Kind:
    """`kind`, or the next wider type that rows of `columns` elements can have."""
    while columns % GGML_QUANT_SIZES[kind][0]:
        kind = _NARROW.get(kind, Kind.F16)
    return kind


def _mixed(name: str, values: Mapping[str, Any]) -> Kind:
    """Choose as Q4_K_M does: v and the down projection get more bits in half of the layers, fused q, k and v in all."""
    architecture = values["general.architecture"]
    layers = int(values[f"{architecture}.block_count"])
    experts = int(values.get(f"{architecture}.expert_count", 0))
    match = _LAYER.match(name)
    if match is None:
        return Kind.Q4_K
    layer = int(match[1])
    more = layer < layers // 8 or layer >= 7 * layers // 8 or (layer - layers // 8) % 3 == 2
    part = name[match.end() :].removesuffix(".weight")
    if part == "attn_v":
        # Models with 80 layers and grouped heads have a small v, so a fifth bit costs little.
        grouped = values[f"{architecture}.attention.head_count"] != values[f"{architecture}.attention.head_count_kv"]
        large = layers == 80 and ((architecture == "llama" and grouped) or architecture == "qwen2")
        return Kind.Q8_0 if experts == 8 else Kind.Q6_K if more else Kind.Q5_K if large else Kind.Q4_K
    if part == "attn_k" and experts == 8:
        return Kind.Q8_0
    if part == "attn_output" and experts == 8:
        return Kind.Q5_K
    if part == "attn_qkv":
        return Kind.Q5_K
    if part in ("ffn_down", "ffn_down_exps") and more:
        return Kind.Q6_K
    return Kind.Q4_K


def encode(name: str, tensor: Tensor, kind: Kind) -> Bytes:
    """Encode a tensor `[…, columns]` of any float type as the flat bytes of `kind`.

    Float values are rounded once; blocks are made from float32 values.

    Raises:
        ModelError: a value is NaN or infinite, or is too large for the type.
    """
    largest = float(tensor.abs().max()) if tensor.numel() else 0.0
    if not largest < float("inf"):
        raise ModelError(f"{name} has NaN or infinite values; nothing was written")
    if largest > HALF_LARGEST and kind not in (Kind.F32, Kind.BF16):
        raise ModelError(
            f"{name} has values up to {largest:g}, but {kind.name} ends at {HALF_LARGEST:g}: use bf16 or f32"
        )
    if kind in _ROUNDED:
        rounded = tensor.to(_ROUNDED[kind]).contiguous().reshape(-1)
        if not bool(torch.isfinite(rounded).all()):
            raise ModelError(f"{name} has values up to {largest:g}, which {kind.name} cannot represent")
        return np.asarray(rounded.view(torch.uint8).numpy())
    rows = tensor.float().contiguous().reshape(-1, tensor.shape[-1]).numpy()
    with np.errstate(divide="ignore", invalid="ignore"):
        encoded = _OWN[kind](rows) if kind in _OWN else quantize(rows, kind)
    return np.asarray(encoded).reshape(-1)
