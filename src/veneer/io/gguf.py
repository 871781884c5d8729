"""GGUF model files behind the checkpoint protocol: Hugging Face names, shapes, values and configuration.

A GGUF file of the family ``llama`` differs from the Hugging Face checkpoint that it was made from in three ways, and
each is undone here: tensors have other names, the rows of q and k are interleaved (llama.cpp rotates neighbouring
pairs where Hugging Face rotates the two halves of a head), and most matrices are quantised in blocks. Tensors are
dequantised a few rows at a time straight into the result, so that reading one costs its own size and little more.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf.constants import GGMLQuantizationType as Kind
from gguf.quants import dequantize

from veneer.errors import ModelError, listing
from veneer.io.gguf_header import GgufHeader, TensorInfo, read_header
from veneer.io.gguf_tokenizer import from_gguf
from veneer.io.prequantised import StoredFormat, StoredWeight
from veneer.io.tokenizer import Tokenizer

CHUNK = 1 << 18
"""Elements that are dequantised at once: the temporaries stay in the processor's cache."""
MAPPED_BYTES = 1 << 22
"""After so many bytes read, a file is mapped anew: what a mapping has touched counts as the process's memory, and would
in the end be the whole file beside the model."""
QUANTISED = (
    Kind.Q8_0, Kind.Q4_0, Kind.Q4_1, Kind.Q5_0, Kind.Q5_1, Kind.Q2_K, Kind.Q3_K, Kind.Q4_K, Kind.Q5_K, Kind.Q6_K,
)  # fmt: skip
FLOATS: dict[Kind, tuple[str, torch.dtype]] = {
    Kind.F32: ("<f4", torch.float32),
    Kind.F16: ("<f2", torch.float16),
    Kind.BF16: ("<i2", torch.bfloat16),  # numpy has no bfloat16: carried as its bits
}
ROPE_FACTORS = "rope_freqs.weight"


@dataclass(frozen=True)
class _Entry:
    """One Hugging Face tensor: where it lies, and the heads whose rows are interleaved (0: none are)."""

    info: TensorInfo
    heads: int


@dataclass(frozen=True)
class _Family:
    """How one GGUF architecture maps to a Hugging Face model."""

    config: Callable[[Path, GgufHeader], dict[str, Any]]
    """Metadata to config.json."""
    rename: Callable[[str], str | None]
    """GGUF tensor name to Hugging Face name, or None where the family has no such tensor."""
    shapes: Callable[[Mapping[str, Any]], dict[str, tuple[int, ...]]]
    """Config to the Hugging Face tensors that must be there, with their shapes."""
    interleaved: Callable[[str, Mapping[str, Any]], int]
    """Heads of a Hugging Face tensor whose rows the file holds interleaved; 0 for all others."""


class GgufCheckpoint:
    """A GGUF model file (see `veneer.io.checkpoint.Checkpoint`).

    Raises:
        ModelError: the file is damaged, its architecture or a tensor type is not read, a tensor is missing, unknown
            or of the wrong shape.
    """

    def __init__(self, path: Path | str) -> None:
        self.source = str(path)
        self.path = Path(path)
        self.header = read_header(self.path)
        architecture = self.header.metadata.get("general.architecture")
        family = FAMILIES.get(architecture) if isinstance(architecture, str) else None
        if family is None:
            raise ModelError(
                f"{self.path} holds the architecture {architecture!r}; GGUF files of {', '.join(sorted(FAMILIES))} "
                "are read. Use the model's safetensors checkpoint instead."
            )
        self.config: Mapping[str, Any] = family.config(self.path, self.header)
        self.generation_config: Mapping[str, Any] = {}
        self.stored: Mapping[str, StoredFormat] = {}  # GGUF's own formats are decoded by `read`
        self._entries = _entries(self.path, self.header, family, self.config)
        self._data, self._touched = self._mapped(), 0

    def names(self) -> list[str]:
        """Hugging Face names of all tensors, in the file's order."""
        return list(self._entries)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of one tensor, row-major. Raises ModelError for an unknown name."""
        return self._entry(name).info.shape

    def read(self, name: str, dtype: torch.dtype) -> torch.Tensor:
        """One tensor as Hugging Face has it: a fresh, contiguous CPU tensor in `dtype`.

        Block-quantised values are computed in float32 and rounded once. Raises ModelError for an unknown name.
        """
        entry = self._entry(name)
        info = entry.info
        columns = info.shape[-1]
        rows = math.prod(info.shape[:-1])
        if len(info.shape) == 1 and entry.heads:
            rows, columns = columns, 1  # the bias of q or k: one element per row of its weight
        self._touched += info.nbytes
        if self._touched > MAPPED_BYTES:
            self._data, self._touched = self._mapped(), info.nbytes
        raw = self._data[info.offset : info.offset + info.nbytes].reshape(rows, info.nbytes // rows)
        out = torch.empty(rows, columns, dtype=dtype)
        target = None
        if entry.heads:
            # The file's row i is the model's row target[i].
            half = rows // entry.heads // 2
            target = torch.arange(rows).view(entry.heads, 2, half).transpose(1, 2).reshape(rows)
        step = max(1, CHUNK // columns)
        for start in range(0, rows, step):
            part = _decode(raw[start : start + step], info.kind).view(-1, columns)
            if target is None:
                out[start : start + step] = part
            else:
                out[target[start : start + step]] = part.to(dtype)
        return out.view(info.shape)

    def read_stored(self, name: str) -> StoredWeight:
        """No weight of a GGUF file is in bitsandbytes' formats: raises ModelError."""
        raise ModelError(f"{self.path}: the tensor {name} is not stored in a format of bitsandbytes.")

    def tokenizer(self) -> Tokenizer:
        """The tokenizer in the file's metadata. Raises ModelError where it is missing or of an unknown kind."""
        return from_gguf(self.header.metadata, source=self.source)

    def files(self) -> list[Path]:
        """The one file."""
        return [self.path]

    def _mapped(self) -> np.ndarray[Any, np.dtype[np.uint8]]:
        # A plain array over the mapping: np.memmap's own class makes every slice several times as costly.
        return np.asarray(np.memmap(self.path, dtype=np.uint8, mode="r"))

    def _entry(self, name: str) -> _Entry:
        entry = self._entries.get(name)
        if entry is None:
            raise ModelError(f"{self.path} has no tensor {name!r}; it has {len(self._entries)} others.")
        return entry


def _decode(raw: np.ndarray[Any, np.dtype[np.uint8]], kind: Kind) -> torch.Tensor:
    """Bytes of whole rows to a flat tensor: float32 for block-quantised ones, else the type that was stored."""
    if kind in FLOATS:
        # The copy makes the memory writable and aligned, which torch asks for.
        layout, dtype = FLOATS[kind]
        return torch.from_numpy(np.array(raw).reshape(-1).view(layout)).view(dtype)
    with np.errstate(over="ignore", invalid="ignore"):  # scales that are infinite or NaN in the file stay so
        # Blocks do not depend on each other: one long row spares the per-row overhead.
        values = dequantize(np.ascontiguousarray(raw).reshape(1, -1), kind)
    return torch.from_numpy(values.reshape(-1))


def _entries(path: Path, header: GgufHeader, family: _Family, config: Mapping[str, Any]) -> dict[str, _Entry]:
    """Map every tensor of the file, and refuse the file where one is missing, unknown, misshapen or of a type that
    is not read: all offenders of a kind are named at once.
    """
    expected = family.shapes(config)
    entries: dict[str, _Entry] = {}
    unknown, misshapen, kinds = [], [], []
    for name, info in header.tensors.items():
        if name == ROPE_FACTORS:
            continue
        target = family.rename(name)
        if target is None or target not in expected:
            unknown.append(name)
            continue
        if info.shape != expected[target]:
            misshapen.append(f"{name}: {info.shape}, the metadata says {expected[target]}")
        if info.kind not in FLOATS and info.kind not in QUANTISED:
            kinds.append(f"{name}: {info.kind.name}")
        entries[target] = _Entry(info, family.interleaved(target, config))
    missing = [name for name in expected if name not in entries]
    for offenders, what in (
        (unknown, "holds tensors that its architecture does not have"),
        (missing, "lacks tensors"),
        (misshapen, "holds tensors of another shape than its metadata says"),
        (kinds, f"holds tensors of types that are not read ({', '.join(k.name for k in (*FLOATS, *QUANTISED))} are)"),
    ):
        if offenders:
            raise ModelError(f"{path} {what}:\n{listing(offenders)}")
    return entries


# ---------------------------------------------------------------------------------------------- metadata to config


class _Metadata:
    """Typed access to the metadata: what is missing or of another type is a ModelError naming the key."""

    def __init__(self, path: Path, metadata: Mapping[str, Any]) -> None:
        self.path = path
        self.metadata = metadata

    def integer(self, key: str, default: int | None = None, *, least: int = 1, most: int = 1 << 31) -> int:
        value = self.metadata.get(key, default)
        if type(value) is not int or not least <= value <= most:
            raise ModelError(f"{self.path}: the metadata key {key} is {value!r}, a whole number ≥ {least} is needed.")
        return value

    def real(self, key: str, default: float | None = None) -> float:
        value = self.metadata.get(key, default)
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < value < math.inf:
            raise ModelError(f"{self.path}: the metadata key {key} is {value!r}, a positive number is needed.")
        # Stored as float32: the shortest decimal that rounds to it is what the original configuration said.
        return float(str(np.float32(value)))

    def token(self, key: str) -> int | None:
        return self.integer(key, least=0) if key in self.metadata else None


def _llama_config(path: Path, header: GgufHeader) -> dict[str, Any]:
    meta = _Metadata(path, header.metadata)
    if meta.integer("llama.expert_count", 0, least=0):
        raise ModelError(f"{path} is a mixture of experts, which is not read from GGUF: use its safetensors files.")
    hidden = meta.integer("llama.embedding_length")
    heads = meta.integer("llama.attention.head_count")
    head_dim = meta.integer("llama.attention.key_length", hidden // heads)
    for key in ("llama.rope.dimension_count", "llama.attention.value_length"):
        if meta.integer(key, head_dim) != head_dim:
            raise ModelError(f"{path}: {key} is {header.metadata[key]}, only the head size {head_dim} is supported.")
    kv_heads = meta.integer("llama.attention.head_count_kv", heads)
    if head_dim % 2 or heads % kv_heads:
        raise ModelError(f"{path}: {heads} heads of {head_dim} with {kv_heads} key heads cannot be: damaged metadata.")
    layers = meta.integer("llama.block_count", most=len(header.tensors))
    embedding = header.tensors.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2:
        raise ModelError(f"{path} lacks the matrix token_embd.weight.")
    positions = meta.integer("llama.context_length")
    theta = meta.real("llama.rope.freq_base", 10000.0)
    return {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": hidden,
        "intermediate_size": meta.integer("llama.feed_forward_length"),
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "hidden_act": "silu",
        "rms_norm_eps": meta.real("llama.attention.layer_norm_rms_epsilon"),
        "rope_theta": theta,
        "rope_scaling": _rope_scaling(meta, header, head_dim, theta, positions),
        "max_position_embeddings": positions,
        "vocab_size": embedding.shape[0],
        "attention_bias": "blk.0.attn_q.bias" in header.tensors,
        "mlp_bias": "blk.0.ffn_gate.bias" in header.tensors,
        "tie_word_embeddings": "output.weight" not in header.tensors,
        "bos_token_id": meta.token("tokenizer.ggml.bos_token_id"),
        "eos_token_id": meta.token("tokenizer.ggml.eos_token_id"),
        "pad_token_id": meta.token("tokenizer.ggml.padding_token_id"),
    }


def _rope_scaling(
    meta: _Metadata, header: GgufHeader, head_dim: int, theta: float, positions: int
) -> dict[str, Any] | None:
    if ROPE_FACTORS in header.tensors:
        info = header.tensors[ROPE_FACTORS]
        if info.kind != Kind.F32 or info.shape != (head_dim // 2,):
            raise ModelError(f"{meta.path}: {ROPE_FACTORS} is {info.kind.name} {info.shape}, not F32 {head_dim // 2}.")
        factors = np.fromfile(meta.path, dtype="<f4", count=head_dim // 2, offset=info.offset)
        if not (np.isfinite(factors).all() and (factors > 0).all()):
            raise ModelError(f"{meta.path}: {ROPE_FACTORS} holds values that are not positive numbers.")
        return rope_scaling_from_factors(factors, head_dim, theta, positions)
    kind = meta.metadata.get("llama.rope.scaling.type")
    if kind is None and "llama.rope.scale_linear" in meta.metadata:
        kind, key = "linear", "llama.rope.scale_linear"
    else:
        key = "llama.rope.scaling.factor"
    if kind is None or kind == "none":
        return None
    if kind != "linear":
        raise ModelError(f"{meta.path}: rope scaling of the type {kind!r} is not read (linear and llama3 are).")
    factor = meta.real(key)
    return None if factor == 1.0 else {"rope_type": "linear", "factor": factor}


def llama3_factors(head_dim: int, theta: float, factor: float, original: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Divisors of the inverse frequencies under llama3 scaling with low/high frequency factors 1 and 4.

    Wavelengths beyond `original` positions are stretched by `factor`, those under a quarter of it are kept, and
    between them the stretch is interpolated. Returns `head_dim / 2` values.
    """
    wavelength = 2 * math.pi * theta ** (np.arange(0, head_dim, 2) / head_dim)
    smooth = np.clip((original / wavelength - 1.0) / 3.0, 0.0, 1.0)
    return np.asarray(1.0 / ((1.0 - smooth) / factor + smooth))


def rope_scaling_from_factors(
    factors: np.ndarray[Any, np.dtype[np.float32]], head_dim: int, theta: float, positions: int
) -> dict[str, Any] | None:
    """The configuration behind a tensor of rope divisors: llama3's where it reproduces them, else the list itself."""
    if bool((factors == 1.0).all()):
        return None
    factor = float(factors.max())
    wavelength = 2 * math.pi * theta ** (np.arange(0, head_dim, 2) / head_dim)
    candidates = [8192, positions, *(1 << power for power in range(8, 18))]
    between = np.flatnonzero((factors > 1.0) & (factors < factor))
    if between.size:
        # An interpolated divisor f obeys 1/f = (1-s)/factor + s with s = (original/wavelength - 1)/3.
        smooth = (1.0 / factors[between].astype(np.float64) - 1.0 / factor) / (1.0 - 1.0 / factor)
        candidates.insert(0, round(float(np.median(wavelength[between] * (1.0 + 3.0 * smooth)))))
    for original in candidates:
        # The converter works in float32, so the match cannot be closer than a few of its roundings.
        if original > 0 and np.allclose(llama3_factors(head_dim, theta, factor, original), factors, rtol=2e-5, atol=0):
            return {
                "rope_type": "llama3",
                "factor": float(str(np.float32(factor))),
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": original,
            }
    return {"rope_type": "veneer_factors", "factors": [float(value) for value in factors]}


# --------------------------------------------------------------------------------------------------- names and shapes

_LLAMA_BLOCK = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_LLAMA_OUTER = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_BLOCK_NAME = re.compile(r"blk\.(0|[1-9][0-9]{0,5})\.([a-z_]+)\.(weight|bias)")


def _llama_name(name: str) -> str | None:
    match = _BLOCK_NAME.fullmatch(name)
    if match is None:
        return _LLAMA_OUTER.get(name)
    module = _LLAMA_BLOCK.get(match[2])
    return None if module is None else f"model.layers.{match[1]}.{module}.{match[3]}"


def _llama_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    query = config["num_attention_heads"] * config["head_dim"]
    key = config["num_key_value_heads"] * config["head_dim"]
    linear = {
        "self_attn.q_proj": (query, hidden, config["attention_bias"]),
        "self_attn.k_proj": (key, hidden, config["attention_bias"]),
        "self_attn.v_proj": (key, hidden, config["attention_bias"]),
        "self_attn.o_proj": (hidden, query, config["attention_bias"]),
        "mlp.gate_proj": (inner, hidden, config["mlp_bias"]),
        "mlp.up_proj": (inner, hidden, config["mlp_bias"]),
        "mlp.down_proj": (hidden, inner, config["mlp_bias"]),
    }
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (config["vocab_size"], hidden)}
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        for norm in ("input_layernorm", "post_attention_layernorm"):
            shapes[f"{prefix}{norm}.weight"] = (hidden,)
        for module, (rows, columns, bias) in linear.items():
            shapes[f"{prefix}{module}.weight"] = (rows, columns)
            if bias:
                shapes[f"{prefix}{module}.bias"] = (rows,)
    shapes["model.norm.weight"] = (hidden,)
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (config["vocab_size"], hidden)
    return shapes


def _llama_interleaved(name: str, config: Mapping[str, Any]) -> int:
    if ".self_attn.q_proj." in name:
        return int(config["num_attention_heads"])
    if ".self_attn.k_proj." in name:
        return int(config["num_key_value_heads"])
    return 0


FAMILIES: dict[str, _Family] = {
    "llama": _Family(_llama_config, _llama_name, _llama_shapes, _llama_interleaved),
}
"""GGUF architectures that are read; a new family is one entry."""
