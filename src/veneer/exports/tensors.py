"""Compares the tensors of an export with those expected, one by one, so that a damaged one is named."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from veneer.errors import ModelError
from veneer.exports.certificate import TensorReport
from veneer.io.checkpoint import Checkpoint
from veneer.loading.stored import packed_layer


class Tensors(Protocol):
    """Tensors by name, read one at a time."""

    def names(self) -> list[str]:
        """The names of all tensors."""
        ...

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, row-major."""
        ...

    def read(self, name: str, dtype: torch.dtype) -> Tensor:
        """A tensor, in `dtype`."""
        ...


@dataclass(frozen=True, slots=True)
class ModelTensors:
    """The tensors of a model's files; quantised ones are decoded."""

    checkpoint: Checkpoint

    def names(self) -> list[str]:
        """The names of all tensors."""
        return self.checkpoint.names()

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, row-major."""
        return self.checkpoint.shape(name)

    def read(self, name: str, dtype: torch.dtype) -> Tensor:
        """A tensor, in `dtype`."""
        if name in self.checkpoint.stored:
            return packed_layer(name, self.checkpoint.read_stored(name)).dequantize(dtype)
        return self.checkpoint.read(name, dtype)


@dataclass(frozen=True, slots=True)
class MemoryTensors:
    """The tensors of a mapping."""

    tensors: Mapping[str, Tensor]

    def names(self) -> list[str]:
        """The names of all tensors."""
        return list(self.tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, row-major."""
        return tuple(self.tensors[name].shape)

    def read(self, name: str, dtype: torch.dtype) -> Tensor:
        """A tensor, in `dtype`."""
        return self.tensors[name].to(dtype)


@dataclass(frozen=True, slots=True)
class ExpectedTensor:
    """One tensor as an export should hold it."""

    name: str
    exact: Tensor
    """The sums before rounding."""
    written: Tensor
    """The values that the format holds for the sums."""


def compare_tensors(expected: Iterable[ExpectedTensor], found: Tensors, threshold: float) -> TensorReport:
    """Read back every tensor, and compare it with the values that the format holds for the exact ones.

    If a format chooses its codes by a search, another processor may find other codes that are as good. A row of a
    matrix with unexpected values therefore passes if it is no further from the exact row.

    Args:
        expected: all tensors, in any order.
        found: the tensors that were written.
        threshold: the largest ‖found − exact‖ / ‖exact‖ that the format's own rounding is known to cause; 0 if the
            format rounds once, or packs without a search, so that only the expected values are right.
    """
    left = set(found.names())
    compared, worst, largest, problems = 0, "", -1.0, []
    for one in expected:
        name, exact = one.name, one.exact.double().cpu()
        if name not in left:
            problems.append(f"{name}: missing")
            continue
        left.discard(name)
        # Float64 holds every value of the formats. Values in a file that are finer than its format are read exactly.
        compared += 1
        try:
            other = found.read(name, torch.float32).double()
        except ModelError as error:
            problems.append(f"{name}: {error}")
            continue
        written = one.written.double().cpu()
        if other.shape != exact.shape:
            problems.append(f"{name}: shape {list(other.shape)}, should be {list(exact.shape)}")
            continue
        broken = int((~torch.isfinite(other)).sum())
        if broken:
            problems.append(f"{name}: {broken:,} of its {other.numel():,} numbers are NaN or infinite")
            continue
        distance = relative_error(other, written if threshold == 0 else exact)
        if distance > largest:
            worst, largest = name, distance
        rows = _damaged_rows(other, written, written if threshold == 0 else exact)
        if rows:
            off, height = relative_error(other, written), max(1, math.prod(exact.shape[:-1]))
            problems.append(f"{name}: is off by {100 * off:.3g} % of its size, in {rows:,} of its {height:,} rows")
        elif threshold and distance > threshold:
            problems.append(f"{name}: is off by {100 * distance:.3g} % of its size; {100 * threshold:g} % are allowed")
    problems += [f"{name}: should not be there" for name in sorted(left)]
    return TensorReport(compared, worst, max(0.0, largest), tuple(problems))


def _damaged_rows(found: Tensor, written: Tensor, exact: Tensor) -> int:
    """Rows with unexpected values that are further from the exact ones, `[…, columns]` each. If the expected values are
    exact, every other value is further."""
    rows = [tensor.reshape(-1, tensor.shape[-1] if tensor.ndim else 1) for tensor in (found, written, exact)]
    other = (rows[0] != rows[1]).any(-1)
    if not bool(other.any()):
        return 0
    here, there = ((rows[at][other] - rows[2][other]).norm(dim=-1) for at in (0, 1))
    return int((here > there).sum())


def relative_error(found: Tensor, expected: Tensor) -> float:
    """‖found − expected‖ / ‖expected‖, or ‖found‖ if zeros are expected."""
    size, off = float(expected.norm()), float((found - expected).norm())
    return off / size if size else off
