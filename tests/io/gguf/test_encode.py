"""gguf reads what is written, in the types that llama.cpp would choose."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from gguf.quants import quantize

from helpers.gguf.blocks import weights
from veneer.errors import ModelError
from veneer.io.gguf.encode import Quant, encode, fitting, kind_of


@pytest.mark.parametrize("kind", [Kind.Q8_0, Kind.Q4_0, Kind.Q5_0, Kind.Q5_1], ids=lambda kind: kind.name)
def test_simple_blocks_are_ggufs_own(kind: Kind) -> None:
    values = weights(11)
    assert np.array_equal(encode("w", torch.from_numpy(values), kind), quantize(values, kind).reshape(-1))
    wide = torch.from_numpy(values).double() * (1 + 1e-12)
    assert np.array_equal(encode("w", wide, kind), quantize(wide.float().numpy(), kind).reshape(-1))


def test_float_types_are_rounded_once() -> None:
    tensor = torch.randn(4, 8, dtype=torch.float64)
    assert np.array_equal(encode("w", tensor, Kind.F16).view(np.float16), tensor.numpy().astype(np.float16).reshape(-1))
    assert np.array_equal(encode("w", tensor, Kind.F32).view(np.float32), tensor.float().numpy().reshape(-1))
    bits = encode("w", tensor, Kind.BF16).view(np.int16)
    assert torch.equal(torch.from_numpy(bits.copy()).view(torch.bfloat16), tensor.bfloat16().reshape(-1))


@pytest.mark.parametrize("kind", [Kind.F32, Kind.F16, Kind.Q8_0, Kind.Q4_K], ids=lambda kind: kind.name)
def test_values_that_cannot_be_held_are_refused(kind: Kind) -> None:
    for bad in (float("nan"), float("inf")):
        tensor = torch.zeros(1, 256)
        tensor[0, 5] = bad
        with pytest.raises(ModelError, match=r"w\.x has NaN or infinite"):
            encode("w.x", tensor, kind)
    large = torch.full((1, 256), 1e6)
    if kind is Kind.F32:
        assert encode("w.x", large, kind).nbytes == 1024
    else:
        with pytest.raises(ModelError, match="up to 1e\\+06"):
            encode("w.x", large, kind)


def metadata(layers: int, architecture: str = "llama", **more: Any) -> dict[str, Any]:
    own = {"block_count": layers, "attention.head_count": 8, "attention.head_count_kv": 2, **more}
    return {"general.architecture": architecture, **{f"{architecture}.{key}": value for key, value in own.items()}}


def test_q4_k_m_gives_some_layers_more_bits() -> None:
    """llama.cpp's rule, written out for 32 layers: the first and last eighth, and every third between."""
    more = {0, 1, 2, 3, 6, 9, 12, 15, 18, 21, 24, 27, 28, 29, 30, 31}
    values = metadata(32)
    for layer in range(32):
        wide = Kind.Q6_K if layer in more else Kind.Q4_K
        for part, expected in (("attn_v", wide), ("ffn_down", wide), ("attn_q", Kind.Q4_K), ("ffn_up", Kind.Q4_K)):
            found = kind_of(f"blk.{layer}.{part}.weight", (512, 512), Quant.Q4_K_M, values, tied=False)
            assert found is expected, (layer, part)
        assert kind_of(f"blk.{layer}.attn_qkv.weight", (512, 512), Quant.Q4_K_M, values, tied=False) is Kind.Q5_K


@pytest.mark.parametrize(
    ("name", "columns", "quant", "tied", "expected"),
    [
        ("token_embd.weight", 512, Quant.Q4_K_M, False, Kind.Q4_K),
        ("token_embd.weight", 512, Quant.Q4_K_M, True, Kind.Q6_K),
        ("token_embd.weight", 576, Quant.Q4_K_M, True, Kind.Q8_0),
        ("output.weight", 512, Quant.Q4_K_M, False, Kind.Q6_K),
        ("output.weight", 512, Quant.Q4_0, False, Kind.Q6_K),
        ("output.weight", 512, Quant.Q8_0, False, Kind.Q8_0),
        ("output.weight", 512, Quant.F16, False, Kind.F16),
        ("token_embd.weight", 512, Quant.Q4_0, False, Kind.Q4_0),
        ("blk.1.attn_q.weight", 576, Quant.Q4_K_M, True, Kind.Q5_0),
        ("blk.0.attn_v.weight", 576, Quant.Q4_K_M, True, Kind.Q8_0),
        ("blk.1.attn_qkv.weight", 576, Quant.Q4_K_M, True, Kind.Q5_1),
        ("blk.1.attn_q.weight", 40, Quant.Q4_K_M, True, Kind.F16),
        ("blk.1.attn_q.weight", 40, Quant.Q8_0, True, Kind.F16),
        ("blk.1.attn_norm.weight", 512, Quant.Q4_K_M, True, Kind.F32),
        ("blk.1.attn_q.bias", 512, Quant.F16, True, Kind.F32),
    ],
)
def test_types_by_name_and_width(name: str, columns: int, quant: Quant, tied: bool, expected: Kind) -> None:
    shape = (columns,) if "norm" in name or "bias" in name else (64, columns)
    assert kind_of(name, shape, quant, metadata(32), tied=tied) is expected


@pytest.mark.parametrize("name", ["attn_q_norm", "ffn_gate_inp"])
@pytest.mark.parametrize("quant", Quant)
def test_stacked_norms_and_routers_stay_float32(name: str, quant: Quant) -> None:
    assert kind_of(f"blk.0.{name}.weight", (8, 64), quant, metadata(4), tied=True) is Kind.F32


def test_large_models_get_a_fifth_bit() -> None:
    found = kind_of("blk.11.attn_v.weight", (64, 512), Quant.Q4_K_M, metadata(80), tied=False)
    assert found is Kind.Q5_K
    assert fitting(Kind.Q4_K, 512) is Kind.Q4_K
