"""Block quantisation against bitsandbytes, and against a slow reference in plain NumPy."""

from __future__ import annotations

import warnings
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from veneer.errors import ConfigError, ModelError
from veneer.quant import codes as module
from veneer.quant.codes import (
    BLOCK_SIZES,
    CodeBook,
    code_values,
    dequantize_4bit,
    packed_sizes,
    quantize_4bit,
)
from veneer.quant.nested import quantize_nested

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # bitsandbytes warns about optional kernels and deprecated torch calls
    bnb = pytest.importorskip("bitsandbytes.functional")

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
SHAPES = (
    (8, 64),
    (3, 100),
    (5, 7),
    (1, 1),
    (1, 3),
    (31,),
    (33,),
    (4, 96),
    (16, 80),
    (7, 4097),
    (2, 3, 65),
    (300, 1000),
)
BOOKS = tuple(CodeBook)
THRESHOLDS = np.float32(
    [
        *(-0.8480964004993439, -0.6106329262256622, -0.4599952697753906, -0.33967943489551544, -0.23460740596055984),
        *(-0.13791173323988914, -0.045525018125772476, 0.03979014977812767, 0.1202552504837513, 0.2035212516784668),
        *(0.2920137718319893, 0.3893125355243683, 0.5016634166240692, 0.6427869200706482, 0.8614784181118011),
    ]
).tolist()  # rounded to float32: some of the published decimals are cut short


def normal(shape: tuple[int, ...], dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    return (torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 0.03).to(dtype)


def theirs(weight: torch.Tensor, block: int, book: CodeBook = CodeBook.NF4) -> tuple[torch.Tensor, torch.Tensor]:
    codes, state = bnb.quantize_4bit(weight, blocksize=block, quant_type=book.value, compress_statistics=False)
    return codes.reshape(-1), state.absmax


def assert_same(weight: torch.Tensor, block: int = 64, books: tuple[CodeBook, ...] = BOOKS) -> None:
    for book in books:
        codes, absmax = quantize_4bit(weight, block, codebook=book)
        their_codes, their_absmax = theirs(weight, block, book)
        assert codes.dtype == torch.uint8
        assert absmax.dtype == torch.float32
        assert torch.equal(absmax.view(torch.int32), their_absmax.view(torch.int32))
        assert torch.equal(codes, their_codes)


def obvious_quantize(weight: np.ndarray, block: int) -> tuple[np.ndarray, np.ndarray]:
    """One element after the other: the definition, with float32 steps where the format has them."""
    flat = weight.astype(np.float32).reshape(-1)
    indices, scales = [], []
    for start in range(0, len(flat), block):
        part = flat[start : start + block]
        scale = np.abs(part).max()
        inverse = np.float32(1) / np.maximum(scale, np.float32(1e-38))
        scaled = part * inverse if len(part) == block else part / np.maximum(scale, np.float32(1e-38))
        scales.append(scale if len(part) == block else np.maximum(scale, np.float32(1e-38)))
        indices += [sum(float(value) > t for t in THRESHOLDS) for value in scaled]
    indices += [7] * (len(indices) % 2)
    return np.array([hi * 16 + lo for hi, lo in zip(indices[::2], indices[1::2], strict=True)]), np.array(scales)


def obvious_dequantize(codes: torch.Tensor, absmax: torch.Tensor, n: int, block: int, book: CodeBook) -> torch.Tensor:
    values = code_values(book).tolist()
    indices = [i for byte in codes.tolist() for i in (byte >> 4, byte & 15)][:n]
    products = np.float32([values[i] for i in indices]) * absmax.numpy()[np.arange(n) // block]
    return torch.from_numpy(products)


def test_thresholds_are_the_published_float32_midpoints() -> None:
    table = module._TABLES[module.CodeBook.NF4].thresholds()
    assert torch.equal(table, torch.tensor(THRESHOLDS))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_quantize_equals_bitsandbytes(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    for block in BLOCK_SIZES:
        assert_same(normal(shape, dtype, seed=block), block)


def test_quantize_equals_bitsandbytes_across_chunks_and_with_a_tail() -> None:
    n = 2 * module._QUANTIZE_CHUNK + 4096 + 65
    for block in (32, 64, 4096):
        assert_same(normal((n,), seed=block), block)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.integers(1, 700),
    st.sampled_from(BLOCK_SIZES[:5]),
    st.sampled_from(DTYPES),
    st.integers(0, 2**31),
    st.sampled_from([1e-40, 1e-30, 1e-6, 1.0, 3e4]),
)
def test_quantize_equals_both_references(n: int, block: int, dtype: torch.dtype, seed: int, magnitude: float) -> None:
    weight = torch.rand(n, generator=torch.Generator().manual_seed(seed)).sub_(0.5).mul_(2 * magnitude).to(dtype)
    assert_same(weight, block)
    codes, absmax = quantize_4bit(weight, block)
    expected_codes, expected_absmax = obvious_quantize(weight.float().numpy(), block)
    assert codes.tolist() == expected_codes.tolist()
    assert torch.equal(absmax, torch.from_numpy(expected_absmax))


@pytest.mark.parametrize("book", BOOKS)
def test_each_threshold_is_strict_and_its_neighbouring_floats_are_right(book: CodeBook) -> None:
    # A block whose largest magnitude is 1 is scaled by exactly 1, so that every float32 can be put to the test.
    values = np.float32(code_values(book).tolist())
    order = sorted(range(16), key=lambda index: values[index])
    thresholds = (values[order][1:] + values[order][:-1]) / np.float32(2)
    centre = np.float32([*thresholds, *values, *(np.arange(-16, 17) / 16), 1e-30, -0.0])
    found = [centre]
    for direction in (-np.inf, np.inf):
        step = centre
        for _ in range(3):
            step = np.nextafter(step, np.float32(direction))
            found.append(step)
    every = np.concatenate(found)
    every = every[np.abs(every) <= 1]
    weight = torch.ones(len(every), 32)
    weight[:, 0] = torch.from_numpy(every)
    codes, _ = quantize_4bit(weight, 32, codebook=book)
    got = (codes.view(len(every), 16)[:, 0] >> 4).tolist()
    assert got == [order[sum(float(v) > float(t) for t in thresholds)] for v in every]
    assert_same(weight, 32, (book,))


def test_every_bin_of_the_search_finds_the_codes_of_plain_comparison() -> None:
    """All floats of eight mantissa bits within [-1, 1], and random ones in every bin of the search."""
    generator = torch.Generator().manual_seed(0)
    upper = torch.arange(0, 1 << 16, dtype=torch.int32) << 16
    lower = torch.randint(0, 1 << 16, (4, 1 << 16), dtype=torch.int32, generator=generator)
    every = torch.cat([upper, *(upper | row for row in lower)]).view(torch.float32)
    every = every[every.abs() <= 1]
    weight = torch.ones(len(every), 32)
    weight[:, 0] = every
    assert_same(weight, 32)


def test_the_values_of_fp4_are_those_of_bitsandbytes_bit_for_bit() -> None:
    own, their_own = code_values(CodeBook.FP4), bnb.get_4bit_type("fp4", device="cpu")
    assert torch.equal(own.view(torch.int32), their_own.view(torch.int32))


@pytest.mark.parametrize("largest", [1.0, 3.4e38, 1e-38, 1.2e-38, 1e-39, 1e-45])
def test_extreme_scales_equal_bitsandbytes(largest: float) -> None:
    weight = normal((4, 160), seed=3)
    weight = weight / weight.abs().max() * largest
    assert_same(weight, 32)
    assert_same(weight, 64)
    assert_same(weight[0, :100], 64)


def test_zero_blocks_decode_to_zero() -> None:
    weight = torch.zeros(3, 65)
    codes, absmax = quantize_4bit(weight)
    assert set(codes.tolist()) == {0x77}
    assert set(quantize_4bit(weight, codebook=CodeBook.FP4)[0].tolist()) == {0}
    assert not absmax[:-1].any()
    assert_same(weight)
    assert not dequantize_4bit(codes, absmax, (3, 65), torch.bfloat16).any()


def test_every_float16_and_bfloat16_value() -> None:
    every = torch.arange(-32768, 32768).to(torch.int16)
    for dtype in (torch.float16, torch.bfloat16):
        values = every.view(dtype)
        assert_same(values[values.isfinite()])


def test_a_strided_weight_has_the_codes_of_a_contiguous_one() -> None:
    assert torch.equal(quantize_4bit(normal((70, 50)).t())[0], quantize_4bit(normal((70, 50)).t().contiguous())[0])


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("at", [0, 70, 149])
def test_non_finite_weights_are_refused_and_counted(bad: float, at: int) -> None:
    weight = normal((150,))
    weight[at] = bad
    weight[at // 2] = bad
    with pytest.raises(ModelError, match=f"{len({at, at // 2})} of 150 weights"):
        quantize_4bit(weight)


def test_wrong_blocks_dtypes_and_sizes_are_refused() -> None:
    with pytest.raises(ConfigError, match="48"):
        quantize_4bit(normal((8, 8)), 48)
    with pytest.raises(ModelError, match="float64"):
        quantize_4bit(normal((8, 8)).double())
    with pytest.raises(ModelError, match="empty"):
        quantize_4bit(torch.zeros(0, 8))
    codes, absmax = quantize_4bit(normal((8, 8)))
    with pytest.raises(ModelError, match="32 contiguous code bytes and 1 scales"):
        dequantize_4bit(codes[:-1], absmax, (8, 8), torch.float32)
    with pytest.raises(ModelError, match="2 scales"):
        dequantize_4bit(codes, absmax, (8, 8), torch.float32, block=32)
    with pytest.raises(ModelError, match="uint8 and float32"):
        dequantize_4bit(codes, absmax.half(), (8, 8), torch.float32)
    with pytest.raises(ModelError, match="buffer"):
        dequantize_4bit(codes, absmax, (8, 8), torch.float32, torch.empty(8, 8).t())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("shape", "block"), [((8, 64), 64), ((5, 7), 32), ((9, 129), 128), ((3, 4097), 64), ((1,), 32)]
)
@pytest.mark.parametrize("book", BOOKS)
def test_decode_rounds_the_float32_product_once(
    book: CodeBook, shape: tuple[int, ...], block: int, dtype: torch.dtype
) -> None:
    weight = normal(shape, dtype)
    codes, absmax = quantize_4bit(weight, block, codebook=book)
    expected = obvious_dequantize(codes, absmax, weight.numel(), block, book).view(shape).to(dtype)
    assert torch.equal(dequantize_4bit(codes, absmax, shape, dtype, block=block, codebook=book), expected)
    out = torch.full(shape, 7.0, dtype=dtype)
    assert dequantize_4bit(codes, absmax, shape, dtype, out, block=block, codebook=book) is out
    assert torch.equal(out, expected)


def test_decode_of_every_byte_across_chunks_and_with_a_tail() -> None:
    n = 2 * module._DECODE_CHUNK + 4096 + 33
    generator = torch.Generator().manual_seed(5)
    for block in (64, 4096):
        code_bytes, blocks = packed_sizes(n, block)
        codes = torch.randint(0, 256, (code_bytes,), dtype=torch.uint8, generator=generator)
        absmax = torch.rand(blocks, generator=generator)
        indices = torch.stack((codes >> 4, codes & 15), dim=1).view(-1)[:n].long()
        for dtype, book in product(DTYPES, BOOKS):
            expected = (code_values(book)[indices] * absmax.repeat_interleave(block)[:n]).to(dtype)
            assert torch.equal(dequantize_4bit(codes, absmax, (n,), dtype, block=block, codebook=book), expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(8, 64), (33, 192), (5, 1024)])
@pytest.mark.parametrize("book", BOOKS)
def test_decode_equals_bitsandbytes_where_its_decode_is_right(
    book: CodeBook, shape: tuple[int, int], dtype: torch.dtype
) -> None:
    weight = normal(shape, dtype)
    packed, state = bnb.quantize_4bit(weight, blocksize=64, quant_type=book.value, compress_statistics=False)
    expected = bnb.dequantize_4bit(packed, state)
    assert torch.equal(dequantize_4bit(packed.view(-1), state.absmax, shape, dtype, codebook=book), expected)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(1, 300), st.sampled_from(BLOCK_SIZES[:3]), st.integers(0, 2**31))
def test_error_is_at_most_half_the_widest_gap(n: int, block: int, seed: int) -> None:
    weight = normal((n,), seed=seed)
    codes, absmax = quantize_4bit(weight, block)
    error = (dequantize_4bit(codes, absmax, (n,), torch.float32, block=block) - weight).abs()
    assert bool((error <= 0.1520 * absmax.repeat_interleave(block)[:n]).all())


def test_results_do_not_depend_on_the_number_of_threads() -> None:
    weight = normal((2000, 1500))
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            codes, absmax = quantize_4bit(weight)
            nested = quantize_nested(absmax)
            results.append((codes, absmax, nested.codes, nested.factors, nested.offset))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))
