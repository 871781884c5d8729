"""Block quantisation to 4 bits: code tables, quantise and decode; `veneer.quant.nested` quantises the scales.

A tensor of `n` elements is flattened row by row and cut into blocks of `block` elements; the last block may be
shorter. A block is scaled by its largest magnitude (`absmax`), and each scaled element becomes the index of the
nearest entry of the code book. Two indices share a byte: element 2i is the high nibble, 2i+1 the low one.

Codes and scales are bit for bit those of bitsandbytes on a CPU; see the tests. Everything here is plain torch, runs
on any device, and works in chunks, so that it needs a few MB beside its input and output whatever their size. Decoding
a weight also has a compiled kernel for the CPU and one in Triton for CUDA.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum
from functools import cache
from math import prod

import torch
from torch import Tensor

from veneer.errors import ConfigError, ModelError
from veneer.gpu.dispatch import kernels_for
from veneer.native.stored import Format, NestedScales, StoredMatrix
from veneer.quant.dynamic import ABSMAX_FLOOR
from veneer.quant.nested import check_nested, dequantize_nested
from veneer.quant.packed import result_buffer

BLOCK_SIZES = (32, 64, 128, 256, 512, 1024, 2048, 4096)
"""The legal block sizes; a block is the elements that share one scale."""

_FLOATS = (torch.float32, torch.bfloat16, torch.float16)

# How many elements a chunk has: a multiple of every block size. On 2 Zen 4 cores (1 MB L2 each), smaller chunks lose to
# call overhead, larger ones to L3 and memory traffic. Decoding has fewer passes, so it prefers longer chunks.
_QUANTIZE_CHUNK = 1 << 18
_DECODE_CHUNK = 1 << 19
# On a GPU each chunk is five launches, and chunks need not fit a cache: 25 MB of scratch memory.
_DEVICE_DECODE_CHUNK = 1 << 22

# The threshold search looks at a float32 by its bits: the upper 11 (sign, exponent, two of the mantissa) are its bin.
_BIN_SHIFT = 21
_BINS = 1 << (32 - _BIN_SHIFT)
_RANKS = 32  # an element passes 0 to 15 thresholds, on either side of zero


@dataclass(frozen=True, slots=True)
class _Table:
    """One 4-bit code book: `values[i]` is what index `i` decodes to, exact in float32."""

    values: tuple[float, ...]

    def order(self) -> list[int]:
        """The indices, sorted by the values they decode to; of two zeros, the lower index comes first."""
        return sorted(range(16), key=lambda index: self.values[index])

    def thresholds(self) -> Tensor:
        """The 15 midpoints between neighbouring values, float32, ascending.

        If `k` of them lie strictly below an element, the element takes the index `order[k]`.
        """
        values = torch.tensor([self.values[index] for index in self.order()], dtype=torch.float32)
        return (values[1:] + values[:-1]) / 2


class CodeBook(Enum):
    """The code books of 4-bit quantisation; the value is the name used in configurations and files."""

    NF4 = "nf4"
    FP4 = "fp4"


# Magnitudes of FP4, 1 sign bit, 2 of exponent and 1 of mantissa, by their bits; all are divided by the largest.
_FP4 = (0.0, 0.0625, 8.0, 12.0, 4.0, 6.0, 2.0, 3.0)

_TABLES = {
    # Quantiles of a normal distribution, scaled to [-1, 1], with an exact zero (QLoRA, arXiv 2305.14314, appendix E).
    CodeBook.NF4: _Table(
        (
            -1.0,
            -0.6961928009986877,
            -0.5250730514526367,
            -0.39491748809814453,
            -0.28444138169288635,
            -0.18477343022823334,
            -0.09105003625154495,
            0.0,
            0.07958029955625534,
            0.16093020141124725,
            0.24611230194568634,
            0.33791524171829224,
            0.44070982933044434,
            0.5626170039176941,
            0.7229568362236023,
            1.0,
        )
    ),
    # As in bitsandbytes, index 8 is a second zero, and small positive numbers take it. Adding 0.0 removes its sign.
    CodeBook.FP4: _Table(
        tuple(float(torch.tensor(sign * value) / 12.0) + 0.0 for sign in (1.0, -1.0) for value in _FP4)
    ),
}


def code_values(codebook: CodeBook = CodeBook.NF4) -> Tensor:
    """The values of a code book, float32 [16], as a fresh tensor on the CPU."""
    return torch.tensor(_TABLES[codebook].values, dtype=torch.float32)


def check_block(block: int) -> None:
    """Raise ConfigError unless `block` is a power of two in 32..4096."""
    if block not in BLOCK_SIZES:
        raise ConfigError(f"quantisation block is {block}; it must be one of {', '.join(map(str, BLOCK_SIZES))}")


def packed_sizes(numel: int, block: int) -> tuple[int, int]:
    """The numbers of code bytes and of scales for `numel` elements: ceil(numel/2) and ceil(numel/block)."""
    return (numel + 1) // 2, -(-numel // block)


# --- 4-bit quantise ----------------------------------------------------------------------------------------------


@cache
def _search_tables(codebook: CodeBook, device: torch.device) -> tuple[Tensor, Tensor]:
    """The two tables of `_encode`: offsets, int32 [2048], and codes, uint8 [1024].

    The offsets are indexed by bin + 1024, the codes by two ranks.

    A float's bits, read as an int32, grow with its magnitude on either side of zero. The rank of a float is the number
    of thresholds between it and zero, less 16 if the float is negative. (bits + offset) >> 21 is the rank: the sum
    carries into the upper bits exactly where the float passes the threshold of its bin. No bin holds two thresholds;
    this is checked.
    """
    thresholds = _TABLES[codebook].thresholds()
    # These are the first bits, on each side of zero, that have passed a threshold. For a positive threshold they are
    # those of the next float above it, because the comparison is strict. For a negative threshold they are its own,
    # because a float that equals it has passed it on the way down.
    passed = {
        0: [1 + int(bits) for bits in thresholds[thresholds >= 0].view(torch.int32)],
        -_BINS // 2: [int(bits) for bits in thresholds[thresholds < 0].flip(0).view(torch.int32)],
    }
    offsets = []
    for number in range(-_BINS // 2, _BINS // 2):
        left, side = number << _BIN_SHIFT, 0 if number >= 0 else -_BINS // 2
        rank = sum(bits <= left for bits in passed[side]) - (16 if side else 0)
        inside = [bits for bits in passed[side] if left < bits < left + (1 << _BIN_SHIFT)]
        if len(inside) > 1:
            raise AssertionError(f"{codebook} has two thresholds in one bin")
        offsets.append(((rank + 1) << _BIN_SHIFT) - inside[0] if inside else (rank << _BIN_SHIFT) - left)
    order, zero = _TABLES[codebook].order(), len(passed[-_BINS // 2])
    by_rank = [order[max(0, zero - rank)] for rank in range(16)] + [order[min(15, zero + rank)] for rank in range(16)]
    one = torch.tensor(by_rank)
    codes = (one.view(-1, 1) * 16 + one).view(-1).to(torch.uint8)
    return torch.tensor(offsets, dtype=torch.int32, device=device), codes.to(device)


def _encode(scaled: Tensor, codebook: CodeBook, bins: Tensor, ranks: Tensor, out: Tensor) -> None:
    """Encode float32 `scaled` (1-D, even length, within [-1, 1] up to rounding) as packed bytes, uint8 [len/2].

    `bins` and `ranks` are int32 scratch buffers of the same length.

    The result is that of an exact, strict comparison with the 15 thresholds. It costs one table look-up for each
    element and one for each pair.

    Measured on one Zen 4 core, M weights/s: torch.bucketize 52; the sum of 15 comparisons 140; a 65,537-entry table
    plus repair of the few ambiguous bins 410-460; gathering a float threshold and a base per bin 520-550.
    """
    offsets, codes = _search_tables(codebook, scaled.device)
    bits = scaled.view(torch.int32)
    torch.bitwise_right_shift(bits, _BIN_SHIFT, out=bins)
    # index_select takes int32 indices; take and [] would need int64 and run at half the speed.
    torch.index_select(offsets, 0, bins.add_(_BINS // 2), out=ranks)
    pairs = ranks.add_(bits).bitwise_right_shift_(_BIN_SHIFT).view(-1, 2)
    both = torch.add(pairs[:, 1], pairs[:, 0], alpha=_RANKS, out=bins[: len(pairs)])
    torch.index_select(codes, 0, both.add_(_RANKS // 2 * (_RANKS + 1)), out=out)


@torch.no_grad()
def quantize_4bit(weight: Tensor, block: int = 64, *, codebook: CodeBook = CodeBook.NF4) -> tuple[Tensor, Tensor]:
    """Quantise `weight` (any shape; float32, bfloat16 or float16) to 4 bits per element.

    Returns `codes`, uint8 [ceil(n/2)], and `absmax`, float32 [ceil(n/block)]. If n is odd, the last low nibble encodes
    zero. Ties go to the lower index. A block of zeros has only codes that mean zero.

    Raises:
        ConfigError: the block size is not allowed.
        ModelError: the tensor has another dtype, is empty or has elements that are not finite.
    """
    check_block(block)
    if weight.dtype not in _FLOATS:
        raise ModelError(f"cannot quantise a {weight.dtype} tensor; convert it to float32, bfloat16 or float16")
    n = weight.numel()
    if n == 0:
        raise ModelError(f"cannot quantise an empty tensor, shape {list(weight.shape)}")
    flat = weight.detach().reshape(-1)
    code_bytes, blocks = packed_sizes(n, block)
    codes = torch.empty(code_bytes, dtype=torch.uint8, device=weight.device)
    absmax = torch.empty(blocks, dtype=torch.float32, device=weight.device)
    # All chunks share these buffers: with fresh ones, glibc gives the memory back and faults it in again.
    size = min(n + n % 2, _QUANTIZE_CHUNK)
    values = torch.empty(size, dtype=torch.float32, device=weight.device)
    bins = torch.empty(size, dtype=torch.int32, device=weight.device)
    ranks = torch.empty_like(bins)
    for start in range(0, n, _QUANTIZE_CHUNK):
        part = flat[start : start + _QUANTIZE_CHUNK]
        count = len(part)
        even = count + count % 2
        scaled = values[:even]
        scaled[count:] = 0
        scaled[:count] = part
        scales = absmax[start // block : -(-(start + count) // block)]
        _normalise(scaled[:count], scales, block, bins.view(torch.float32))
        # NaN and infinity reach the scale of their block, so it is enough to look at the scales.
        if not bool(scales.isfinite().all()):
            bad = sum(int((~piece.isfinite()).sum()) for piece in torch.split(flat, _QUANTIZE_CHUNK))
            raise ModelError(
                f"cannot quantise: {bad} of {n} weights are NaN or infinite; the checkpoint is damaged, or was "
                "converted to a dtype in which it overflows"
            )
        _encode(scaled, codebook, bins[:even], ranks[:even], codes[start // 2 : (start + even) // 2])
    return codes, absmax


def _normalise(values: Tensor, absmax: Tensor, block: int, scratch: Tensor) -> None:
    """Divide float32 `values` (1-D) in place by the largest magnitude of each block, and write that to `absmax`."""
    full = len(values) - len(values) % block
    if full:
        blocks = values[:full].view(-1, block)
        scale = absmax[: len(blocks)]
        torch.amax(torch.abs(blocks, out=scratch[:full].view_as(blocks)), dim=1, out=scale)
        blocks *= scale.clamp(min=ABSMAX_FLOOR).reciprocal_().unsqueeze(1)
    if full < len(values):
        # In a partial block bitsandbytes divides, and it records its floor as the absmax of the block.
        rest = values[full:]
        absmax[-1] = rest.abs().amax().clamp(min=ABSMAX_FLOOR)
        rest /= absmax[-1]


# --- 4-bit decode ------------------------------------------------------------------------------------------------


@cache
def _pair_table(codebook: CodeBook, device: torch.device) -> Tensor:
    """The pair of float32 values of each byte, viewed as one int64, [256]; the pair is in memory order."""
    values = code_values(codebook)
    byte = torch.arange(256)
    pairs = torch.stack((values[byte >> 4], values[byte & 15]), dim=1).contiguous()
    return pairs.view(torch.int64).reshape(-1).to(device)


@cache
def value_table(codebook: CodeBook, device: torch.device) -> Tensor:
    """The values of a code book, float32 [16], on `device`; they are shared: do not write to them."""
    return code_values(codebook).to(device)


@torch.no_grad()
def dequantize_4bit(
    codes: Tensor,
    scales: Tensor | NestedScales,
    shape: Sequence[int],
    dtype: torch.dtype,
    out: Tensor | None = None,
    *,
    block: int = 64,
    codebook: CodeBook = CodeBook.NF4,
) -> Tensor:
    """Decode to a tensor of `shape` and `dtype`: each element is the float32 product of value and scale, rounded once.

    Args:
        codes: uint8 [ceil(n/2)].
        scales: float32 [ceil(n/block)], or quantised to 8 bits themselves.
        shape: the shape of the result, n elements.
        dtype: the dtype of the result.
        out: a contiguous buffer for the result; without it, a fresh one is made.
        block: the elements that share a scale.
        codebook: the code book of the codes.

    Raises:
        ModelError: sizes or dtypes do not fit each other or `out`.
    """
    n = prod(shape)
    _check_packed(codes, scales, n, block)
    out = result_buffer(out, shape, dtype, codes.device)
    fast = kernels_for(out)
    if fast is not None:
        fast.dequantize_4bit(_as_one_row(codes, scales, n, block, codebook), out)
        return out
    plain = dequantize_nested(scales) if isinstance(scales, NestedScales) else scales
    return _decode_chunks(codes, plain, out, block, codebook)


def _as_one_row(
    codes: Tensor, scales: Tensor | NestedScales, numel: int, block: int, codebook: CodeBook
) -> StoredMatrix:
    """Describe a flattened weight to the kernels, which read contiguous tensors."""
    if isinstance(scales, NestedScales):
        scales = replace(scales, codes=scales.codes.contiguous(), factors=scales.factors.contiguous())
    else:
        scales = scales.contiguous()
    values = value_table(codebook, codes.device)
    return StoredMatrix(
        format=Format.FOUR_BIT, columns=1, depth=numel, codes=codes, values=values, scales=scales, block=block
    )


def _decode_chunks(codes: Tensor, absmax: Tensor, out: Tensor, block: int, codebook: CodeBook) -> Tensor:
    """Decode in torch's own operations, which serve every device and dtype."""
    n = out.numel()
    table, bytes_, result = _pair_table(codebook, codes.device), codes.view(-1), out.view(-1)
    # All chunks share two scratch buffers: with fresh ones, glibc gave the memory back and faulted it in again, and
    # decoding was up to six times slower.
    chunk = _DECODE_CHUNK if codes.device.type == "cpu" else _DEVICE_DECODE_CHUNK
    size = (min(n, chunk) + 1) // 2
    index_buffer = torch.empty(size, dtype=torch.int32, device=codes.device)
    pair_buffer = torch.empty(size, dtype=torch.int64, device=codes.device)
    for start in range(0, n, chunk):
        stop = min(n, start + chunk)
        # A byte selects both its floats at once, and they move as one int64. This look-up is half of the function's
        # time. `take` and `[]` need int64 indices and twice as long; a table by four codes gains nothing.
        count = (stop - start + 1) // 2
        index = index_buffer[:count].copy_(bytes_[start // 2 : start // 2 + count])
        pairs = torch.index_select(table, 0, index, out=pair_buffer[:count])
        values = pairs.view(torch.float32)[: stop - start]
        full = values.numel() - values.numel() % block
        first = start // block
        blocks = values[:full].view(-1, block)
        # The product stays float32: multiplying codes already rounded to bfloat16 would round twice.
        blocks *= absmax[first : first + len(blocks)].unsqueeze(1)
        if full < values.numel():
            values[full:] *= absmax[-1]
        result[start:stop] = values
    return out


def _check_packed(codes: Tensor, scales: Tensor | NestedScales, numel: int, block: int) -> None:
    check_block(block)
    code_bytes, blocks = packed_sizes(numel, block)
    needed = torch.float32
    if isinstance(scales, NestedScales):
        check_nested(scales)
        scales, needed = scales.codes, torch.uint8
    if codes.dtype != torch.uint8 or scales.dtype != needed:
        name = str(needed).removeprefix("torch.")
        raise ModelError(f"4-bit codes are {codes.dtype} and scales {scales.dtype}; they must be uint8 and {name}")
    if codes.numel() != code_bytes or scales.numel() != blocks or not codes.is_contiguous():
        raise ModelError(
            f"{numel} weights in blocks of {block} need {code_bytes} contiguous code bytes and {blocks} scales; "
            f"got {codes.numel()} and {scales.numel()}"
        )
