"""GGUF's blocks are decoded as the gguf package and llama.cpp decode them, by kernels and by torch alike."""

from __future__ import annotations

import ctypes
import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from gguf.quants import dequantize, quantize
from torch import Tensor

from helpers.gguf.blocks import weights
from helpers.models.tiny_models import BACKENDS, use_backend
from veneer.errors import ModelError
from veneer.native.stored import Format
from veneer.quant.blocks import LAYOUTS, BlockLinear, decode_blocks, row_bytes

FORMATS = pytest.mark.parametrize("kind", LAYOUTS)
LIBRARIES = ("libggml-base.so", "xllamacpp.abi3.so")
"""Files that export llama.cpp's functions, in what xllamacpp installs."""


def encoded(kind: Format, values: np.ndarray) -> Tensor:
    return torch.from_numpy(quantize(values, Kind[kind.name]))


def any_bytes(kind: Format, rows: int, columns: int) -> Tensor:
    """Codes of every kind under scales of every size that float16 has, small ones without an exponent among them."""
    source = np.random.default_rng(rows)
    layout = LAYOUTS[kind]
    blocks = source.integers(0, 256, (rows, columns // 32, layout.bytes), dtype=np.uint8)
    halves = source.integers(0, 1 << 16, (rows, columns // 32, layout.halves), dtype=np.uint16)
    halves[(halves & 0x7C00) == 0x7C00] = 0  # neither infinite nor NaN
    blocks[..., : 2 * layout.halves] = halves.view(np.uint8)
    return torch.from_numpy(blocks.reshape(rows, -1))


@FORMATS
@pytest.mark.parametrize("backend", BACKENDS)
def test_every_weight_is_the_gguf_packages(kind: Format, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    use_backend(backend, monkeypatch)
    for columns in (32, 96, 1088):
        for blocks in (any_bytes(kind, 21, columns), encoded(kind, weights(3, 21, columns))):
            expected = torch.from_numpy(dequantize(blocks.numpy(), Kind[kind.name]))
            for dtype in (torch.float32, torch.bfloat16, torch.float16):
                assert torch.equal(decode_blocks(blocks, kind, dtype), expected.to(dtype))
                buffer = torch.empty(21, columns, dtype=dtype)
                assert decode_blocks(blocks, kind, dtype, buffer) is buffer
                assert torch.equal(buffer, expected.to(dtype))


@FORMATS
def test_every_weight_is_llama_cpps(kind: Format) -> None:
    found = importlib.util.find_spec("xllamacpp")
    if found is None or found.origin is None:
        pytest.skip("xllamacpp is not installed")
    folder = Path(found.origin).parent
    library = ctypes.CDLL(str(next(file for name in LIBRARIES for file in folder.rglob(name))))
    decode = getattr(library, f"dequantize_row_{kind.name.lower()}")
    blocks = any_bytes(kind, 1, 32 * 4096)
    expected = torch.empty(1, 32 * 4096)
    decode(ctypes.c_void_p(blocks.data_ptr()), ctypes.c_void_p(expected.data_ptr()), ctypes.c_int64(expected.numel()))
    assert torch.equal(decode_blocks(blocks, kind, torch.float32), expected)


@FORMATS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_layer_computes_what_its_decoded_weight_does(kind: Format, dtype: torch.dtype) -> None:
    blocks, bias = encoded(kind, weights(5, 40, 96)), torch.randn(40)
    layer = BlockLinear(blocks, kind, 96, bias)
    weight = layer.dequantize(torch.float32)
    x = torch.randn(50, 96, dtype=dtype, requires_grad=True)
    y = layer(x)
    y.backward(torch.ones_like(y))
    assert x.grad is not None
    rounded = 2**-6 if dtype is torch.bfloat16 else 2**-18
    terms = x.detach().float().abs() @ weight.abs().T + bias.abs()
    assert ((y.float() - x.detach().float() @ weight.T - bias).abs() <= rounded * terms).all()
    columns = weight.abs().sum(0)
    assert ((x.grad.float() - weight.sum(0)).abs() <= rounded * columns).all()


@FORMATS
def test_a_layer_takes_the_bytes_of_the_file_and_keeps_them(kind: Format) -> None:
    blocks = any_bytes(kind, 8, 64)
    layer = BlockLinear(blocks, kind, 64)
    assert layer.nbytes == 8 * row_bytes(kind, 64) == blocks.nbytes
    assert layer.to(torch.bfloat16).blocks.data_ptr() == blocks.data_ptr()
    assert f"{kind.name}" in repr(layer)


def test_blocks_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ModelError, match="rows of 48 weights cannot be held in blocks of 32 as Q4_0"):
        row_bytes(Format.Q4_0, 48)
    with pytest.raises(ModelError, match="cannot be held in blocks of 32 as INT8"):
        row_bytes(Format.INT8, 64)
    with pytest.raises(ModelError, match=r"blocks are .* they must be torch.uint8 of shape \[4, 36\]"):
        BlockLinear(torch.zeros(4, 40, dtype=torch.uint8), Format.Q4_0, 64)
    with pytest.raises(ModelError, match="cannot decode into"):
        decode_blocks(torch.zeros(4, 36, dtype=torch.uint8), Format.Q4_0, torch.float32, torch.empty(4, 32))
