"""The functions of a compiled library, called on tensors.

A kernel reads contiguous CPU tensors in float32 or bfloat16 and fills new ones. `veneer.native.library` chooses the
library.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from veneer.native.arguments import DTYPE_NUMBERS, pointer, pointers
from veneer.native.attention import Documents, ScoreLimits, attention_arguments
from veneer.native.opened import OpenedLibrary
from veneer.native.processor import AMX_FLAG, cpu_flags
from veneer.native.rowwise import RowwiseKernels
from veneer.native.stored import StoredMatrix, matrix_struct


@dataclass(frozen=True, slots=True)
class CodedMoment:
    """A moment in 8 bits: its codes and scales, and the tables of its map (`veneer.quant.dynamic`)."""

    codes: Tensor
    absmax: Tensor
    values: Tensor
    below: Tensor
    thresholds: Tensor


class KernelProducts(IntEnum):
    """What multiplies bfloat16, all with float32 sums; common.h has the same numbers."""

    FLOATS = 0
    """Numbers in float32."""
    PAIRS = 1
    """Pairs of bfloat16 (AVX-512 BF16). Prompts have a kernel of their own, which adds up in another order."""
    TILES = 2
    """Tiles of bfloat16 (AMX)."""


class Kernels:
    """The functions of one compiled library.

    Args:
        path: the file of the library.
        products: how bfloat16 is multiplied. None chooses the fastest way: on a processor with tiles (AMX), pairs have
            half of the floats' rate.

    Raises:
        OSError: see `OpenedLibrary`.
    """

    def __init__(self, path: Path, *, products: KernelProducts | None = None):
        self._library = OpenedLibrary(path)
        self._products = products
        self.rowwise = RowwiseKernels(self._library)

    def attention_forward(
        self,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        documents: Documents,
        scale: float,
        limits: ScoreLimits | None = None,
        into: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Compute causal attention within documents. Returns output and log-sum-exp; attention.c has their shapes. They
        are written `into` contiguous memory if that is given."""
        output, lse = into or (torch.empty_like(queries), torch.empty(queries.shape[:2], dtype=torch.float32))
        problem = attention_arguments(queries, keys, values, documents, scale, limits)
        self._library.call("attention_forward", *problem, int(self.bfloat16_products), pointer(output), pointer(lse))
        return output, lse

    def attention_backward(
        self,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        documents: Documents,
        scale: float,
        output: Tensor,
        lse: Tensor,
        grad: Tensor,
        limits: ScoreLimits | None = None,
        into: tuple[Tensor, Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The gradients of queries, keys and values; that of sinks follows from `lse`, `output` and `grad`. They are
        written `into` contiguous memory if that is given."""
        grads = into or (torch.empty_like(queries), torch.empty_like(keys), torch.empty_like(values))
        tokens, heads, dim = queries.shape
        rows = 2 * tokens + 2 * documents.shared * len(documents.lengths)
        scratch = torch.empty((rows, heads, dim), dtype=torch.float32)
        self._library.call(
            "attention_backward",
            *attention_arguments(queries, keys, values, documents, scale, limits),
            int(self.bfloat16_products),
            *(pointer(tensor) for tensor in (output, lse, grad, *grads, scratch)),
        )
        return grads

    def peak(self, dtype: torch.dtype, rounds: int, threads: int) -> int:
        """Multiply and add in registers only; see peak.c.

        Returns:
            The number of operations, of which a multiplication and an addition are two.
        """
        count = self._library.functions.veneer_peak
        count.restype = ctypes.c_int64
        kept = ctypes.c_float()
        products = self.step_products(dtype)
        return int(count(int(products), ctypes.c_int64(rounds), ctypes.byref(kept), threads))

    def attention_step(self, queries: Tensor, keys: Tensor, values: Tensor, seen: Tensor, scale: float) -> Tensor:
        """Attend with one new token for each row to the first `seen` (int64 `[rows]`) keys of its line of the cache."""
        output = torch.empty_like(queries)
        rows, heads, dim = queries.shape
        self._library.call(
            "attention_step",
            DTYPE_NUMBERS[queries.dtype],
            *(pointer(tensor) for tensor in (queries, keys, values, seen)),
            rows,
            heads,
            keys.shape[1],
            ctypes.c_int64(keys.shape[2]),
            dim,
            ctypes.c_float(scale),
            pointer(output),
        )
        return output

    def cross_entropy(self, scores: Tensor, targets: Tensor, *, gradient: bool) -> Tensor:
        """The losses, float32 `[rows]`, of `scores` `[rows, vocab]`; with `gradient`, it replaces the scores."""
        losses = torch.empty(scores.shape[0], dtype=torch.float32)
        self._library.call(
            "cross_entropy",
            DTYPE_NUMBERS[scores.dtype],
            pointer(scores),
            pointer(targets),
            ctypes.c_int64(scores.shape[0]),
            ctypes.c_int64(scores.shape[1]),
            int(gradient),
            pointer(losses),
        )
        return losses

    def decode_stored(self, weight: StoredMatrix, out: Tensor) -> None:
        """Decode a weight as it is stored into `out`, float32 or bfloat16 `[columns, depth]`."""
        matrix = matrix_struct(weight)
        self._library.call("decode_stored", ctypes.byref(matrix), DTYPE_NUMBERS[out.dtype], pointer(out))

    @cached_property
    def has_int8(self) -> bool:
        """Whether `int8_product` runs here: it is compiled for AVX-512 only and needs a processor with VNNI."""
        return "avx512_vnni" in cpu_flags() and bool(self._library.functions.veneer_int8_compiled(ctypes.c_int(1)))

    def int8_product(self, x: Tensor, codes: Tensor, scales: Tensor, offsets: Tensor, columns: int) -> Tensor:
        """Multiply x `[rows, width]` by a packed int8 matrix to `[rows, columns]`; int8.c has its layout."""
        y = torch.empty((x.shape[0], columns), dtype=x.dtype)
        self._library.call(
            "int8_product",
            DTYPE_NUMBERS[x.dtype],
            *(pointer(tensor) for tensor in (x, codes, scales, offsets)),
            ctypes.c_int64(x.shape[0]),
            x.shape[1],
            columns,
            pointer(y),
        )
        return y

    def rows_product(
        self,
        x: Tensor,
        weight: StoredMatrix,
        bias: Tensor | None = None,
        products: KernelProducts = KernelProducts.FLOATS,
    ) -> Tensor:
        """x Wᵀ (+ bias `[columns]`), float32 `[rows, depth]` to `[rows, columns]`, with the weight as it is stored.

        `products` chooses the kind of products. Sums are float32, and a row's bits do not depend on the number of rows:
        see rows.c, row_pairs.c and tiles.c.
        """
        y = torch.empty((x.shape[0], weight.columns), dtype=torch.float32)
        matrix = matrix_struct(weight)
        self._library.call(
            "rows_product", ctypes.byref(matrix), int(products), pointer(x), x.shape[0], pointer(bias), pointer(y)
        )
        return y

    def likeliest(self, scores: Tensor, rows: Sequence[int]) -> list[int]:
        """The place of the first largest score in each of some rows of float32 scores `[.., columns]`."""
        columns, count = ctypes.c_int64(scores.shape[1]), len(rows)
        found = (ctypes.c_int64 * count)()
        self._library.call(
            "likeliest", pointer(scores), columns, (ctypes.c_int64 * count)(*rows), ctypes.c_int64(count), found
        )
        return list(found)

    @cached_property
    def bfloat16_products(self) -> KernelProducts:
        """The products that multiply bfloat16."""
        if self._products is not None:
            return self._products
        return KernelProducts(
            self._library.functions.veneer_bf16_products(int(AMX_FLAG in cpu_flags()), ctypes.c_int(1))
        )

    def step_products(self, dtype: torch.dtype) -> KernelProducts:
        """The products that multiply the rows of a model in `dtype`."""
        return self.bfloat16_products if dtype == torch.bfloat16 else KernelProducts.FLOATS

    def frozen_product(
        self,
        x: Tensor,
        weight: StoredMatrix,
        update: tuple[Tensor, StoredMatrix] | None,
        bias: Tensor | None,
        scale: float,
        y: Tensor,
        *,
        by_outputs: bool,
    ) -> None:
        """Set y to x Wᵀ (`by_outputs`) or x W, plus scale · left W₂ + bias, in float32 with the weight as it is stored.

        (left, W₂) is the update; frozen.c has the shapes.
        """
        left, right = update if update is not None else (None, None)
        matrix, factor = matrix_struct(weight), None if right is None else matrix_struct(right)
        self._library.call(
            "frozen_product",
            ctypes.byref(matrix),
            None if factor is None else ctypes.byref(factor),
            pointer(x),
            pointer(left),
            pointer(bias),
            ctypes.c_float(scale),
            int(by_outputs),
            ctypes.c_int64(x.shape[0]),
            pointer(y),
        )

    def row_norms(self, weight: StoredMatrix, a: Tensor, b: Tensor, scale: float) -> Tensor:
        """The norms of the rows of W + scale · B A, float32 `[columns]`, with the weight as it is stored.

        A float32 `[rank, depth]`, B float32 `[columns, rank]`.
        """
        norms = torch.empty(weight.columns, dtype=torch.float32)
        matrix, factor = matrix_struct(weight), ctypes.c_float(scale)
        self._library.call(
            "row_norms", ctypes.byref(matrix), pointer(a), pointer(b), a.shape[0], factor, pointer(norms)
        )
        return norms

    def step(
        self,
        *,
        operations: ctypes.Array[Any],
        space: Tensor,
        rows: int,
        first_prompt: int,
        products: KernelProducts,
        cache_dtype: torch.dtype,
        block_tokens: int,
        blocks: ctypes.Array[ctypes.c_void_p],
        seen: ctypes.Array[ctypes.c_int64],
        angles: Sequence[tuple[Tensor, Tensor]],
        places: ctypes.Array[ctypes.c_int64],
        segments: ctypes.Array[Any],
    ) -> None:
        """Carry out a step; see `veneer.native.program.Program.run`."""
        self._library.call(
            "step",
            operations,
            len(operations),
            pointer(space),
            rows,
            first_prompt,
            int(products),
            DTYPE_NUMBERS[cache_dtype],
            block_tokens,
            blocks,
            seen,
            pointers([cosine for cosine, _ in angles]),
            pointers([sine for _, sine in angles]),
            places,
            segments,
            len(segments),
        )

    @cached_property
    def has_products(self) -> bool:
        """Whether to use `product` and `outer`: if bfloat16 is multiplied in pairs or in tiles."""
        narrow = self.bfloat16_products is not KernelProducts.FLOATS
        return narrow and bool(self._library.functions.veneer_product_compiled(ctypes.c_int(1)))

    def product(
        self,
        x: Tensor,
        weight: Tensor,
        update: tuple[Tensor, Tensor] | None,
        bias: Tensor | None,
        scale: float,
        y: Tensor,
        *,
        by_outputs: bool,
        add: bool = False,
    ) -> None:
        """Set y to x Wᵀ (`by_outputs`) or x W, plus scale · left W₂ + bias, or `add` the rounded result to y.

        All are bfloat16 but the bias and the sums, which are float32. (left, W₂) is the update; W₂ is stored as W is.
        """
        left, right = update if update is not None else (None, None)
        self._library.call(
            "product",
            pointer(x),
            pointer(weight),
            pointer(left),
            pointer(right),
            pointer(bias),
            ctypes.c_float(scale),
            int(by_outputs),
            int(add),
            ctypes.c_int64(x.shape[0]),
            x.shape[1],
            0 if left is None else left.shape[1],
            y.shape[1],
            int(self.bfloat16_products),
            pointer(y),
        )

    def outer(self, narrow: Tensor, wide: Tensor, scale: float, out: Tensor, *, turned: bool) -> None:
        """Set `out`, which is float32, to scale · narrowᵀ wide of bfloat16 factors, or to the transpose if `turned`;
        see `has_products`."""
        self._library.call(
            "outer",
            pointer(narrow),
            pointer(wide),
            ctypes.c_float(scale),
            ctypes.c_int64(wide.shape[0]),
            narrow.shape[1],
            wide.shape[1],
            int(turned),
            int(self.bfloat16_products),
            pointer(out),
        )

    def adamw8bit(
        self, weights: Tensor, grads: Tensor, mean: CodedMoment, square: CodedMoment, betas: tuple[float, float],
        shrink: float, rate: float, root: float, epsilon: float,
    ) -> None:  # fmt: skip
        """Take a step over float32 `weights` and `grads` of one length, in place; optimizer.c has the formula."""
        states = [pointer(tensor) for moment in (mean, square) for tensor in (moment.codes, moment.absmax)]
        tables = [pointer(tensor) for m in (mean, square) for tensor in (m.values, m.below, m.thresholds)]
        self._library.call(
            "adamw8bit",
            pointer(weights),
            pointer(grads),
            *states,
            *tables,
            ctypes.c_int64(weights.numel()),
            *(ctypes.c_float(number) for beta in betas for number in (beta, 1 - beta)),
            *(ctypes.c_float(number) for number in (shrink, rate, root, epsilon)),
        )
