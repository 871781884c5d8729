"""Decoding 4-bit weights in Triton equals the reference to the last bit."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from veneer.gpu.quant import dequantize_4bit
from veneer.native.stored import Format, NestedScales, StoredMatrix
from veneer.quant import codes as reference
from veneer.quant.codes import CodeBook, code_values, quantize_4bit
from veneer.quant.nested import quantize_nested

pytestmark = pytest.mark.usefixtures("seed")

SHAPES = [(1, 1), (3, 5), (37, 83), (64, 64), (1, 4097), (50, 1024)]


@pytest.fixture(autouse=True)
def torch_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "kernels_for", lambda *tensors: None)


def decode(
    codes: Tensor, scales: Tensor | NestedScales, block: int, out: Tensor, codebook: CodeBook = CodeBook.NF4
) -> None:
    columns, depth = out.shape
    values = code_values(codebook)
    weight = StoredMatrix(
        format=Format.FOUR_BIT, columns=columns, depth=depth, codes=codes, values=values, scales=scales, block=block
    )
    dequantize_4bit(weight, out)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("block", [32, 64, 4096])
@pytest.mark.parametrize("shape", SHAPES)
def test_decoding_is_that_of_the_reference_bit_for_bit(shape: tuple[int, int], block: int, dtype: torch.dtype) -> None:
    weight = torch.randn(shape) * torch.rand(shape[0], 1) * 3
    codes, absmax = quantize_4bit(weight, block)
    found = torch.full(shape, torch.nan, dtype=dtype)
    decode(codes, absmax, block, found)
    assert torch.equal(found, reference.dequantize_4bit(codes, absmax, shape, dtype, block=block))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("block", [32, 64, 4096])
@pytest.mark.parametrize("shape", SHAPES)
def test_nested_scales_are_decoded_in_the_same_launch(shape: tuple[int, int], block: int, dtype: torch.dtype) -> None:
    weight = torch.randn(shape) * torch.rand(shape[0], 1) * 3
    codes, absmax = quantize_4bit(weight, block)
    nested = quantize_nested(absmax)
    found = torch.full(shape, torch.nan, dtype=dtype)
    decode(codes, nested, block, found)
    assert torch.equal(found, reference.dequantize_4bit(codes, nested, shape, dtype, block=block))


@pytest.mark.parametrize("block", [32, 4096])
def test_another_code_book_is_another_table_of_values(block: int) -> None:
    weight = torch.randn(37, 83)
    codes, absmax = quantize_4bit(weight, block, codebook=CodeBook.FP4)
    found = torch.full((37, 83), torch.nan)
    decode(codes, absmax, block, found, CodeBook.FP4)
    expected = reference.dequantize_4bit(codes, absmax, (37, 83), torch.float32, block=block, codebook=CodeBook.FP4)
    assert torch.equal(found, expected)


def test_bfloat16_is_within_one_unit_of_the_reference() -> None:
    """The interpreter cuts where a card rounds, so more cannot be asked of it here."""
    weight = torch.randn(40, 70)
    codes, absmax = quantize_4bit(weight, 64)
    found = torch.empty(40, 70, dtype=torch.bfloat16)
    decode(codes, absmax, 64, found)
    exact = reference.dequantize_4bit(codes, absmax, (40, 70), torch.float32)
    assert bool(((found.double() - exact.double()).abs() <= 2.0**-7 * exact.double().abs()).all())


def test_nothing_is_written_behind_the_end() -> None:
    weight = torch.randn(3, 7)
    codes, absmax = quantize_4bit(weight, 32)
    room = torch.full((64,), 7.0)
    decode(codes, absmax, 32, room[:21].view(3, 7))
    assert bool((room[21:] == 7.0).all())
