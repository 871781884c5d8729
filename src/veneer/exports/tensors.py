"""What was written, tensor by tensor, beside what should stand there: so that a damaged one is named."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from veneer.events import Stage
from veneer.exports.certificate import TensorReport
from veneer.io.checkpoint import Checkpoint
from veneer.load import packed_layer


class Tensors(Protocol):
    """Tensors by name, read one at a time."""

    def names(self) -> list[str]:
        """All of them."""
        ...

    def read(self, name: str, dtype: torch.dtype) -> Tensor:
        """One, in `dtype`."""
        ...


@dataclass(frozen=True, slots=True)
class ModelTensors:
    """Those of a model's files; quantised ones decoded."""

    checkpoint: Checkpoint

    def names(self) -> list[str]:
        """All of them."""
        return self.checkpoint.names()

    def read(self, name: str, dtype: torch.dtype) -> Tensor:
        """One, in `dtype`."""
        if name in self.checkpoint.stored:
            return packed_layer(name, self.checkpoint.read_stored(name)).dequantize(dtype)
        return self.checkpoint.read(name, dtype)


@dataclass(frozen=True, slots=True)
class MemoryTensors:
    """Those of a mapping."""

    tensors: Mapping[str, Tensor]

    def names(self) -> list[str]:
        """All of them."""
        return list(self.tensors)

    def read(self, name: str, dtype: torch.dtype) -> Tensor:
        """One, in `dtype`."""
        return self.tensors[name].to(dtype)


def compare_tensors(expected: Iterable[tuple[str, Tensor]], found: Tensors, threshold: float) -> TensorReport:
    """Read back every tensor.

    Args:
        expected: what each should be, rounded as the format rounds it where it rounds once.
        found: what was written.
        threshold: largest ‖found − expected‖ / ‖expected‖; 0 asks for the same numbers.
    """
    left = set(found.names())
    compared, worst, largest, problems = 0, "", -1.0, []
    for name, tensor in expected:
        if name not in left:
            problems.append(f"{name}: missing")
            continue
        left.discard(name)
        # Float64 holds every value of the formats that are compared bit for bit.
        other = found.read(name, tensor.dtype if threshold == 0 else torch.float32).double()
        tensor = tensor.double().cpu()
        compared += 1
        if other.shape != tensor.shape:
            problems.append(f"{name}: shape {list(other.shape)}, should be {list(tensor.shape)}")
            continue
        broken = int((~torch.isfinite(other)).sum())
        if broken:
            problems.append(f"{name}: {broken:,} of its {other.numel():,} numbers are NaN or infinite")
            continue
        error = relative_error(other, tensor)
        if error > largest:
            worst, largest = name, error
        if error > threshold:
            problems.append(f"{name}: is off by {100 * error:.3g} % of its size, {100 * threshold:g} % are allowed")
    problems += [f"{name}: should not be there" for name in sorted(left)]
    return TensorReport(compared, worst, max(0.0, largest), tuple(problems))


def counted(tensors: Iterable[tuple[str, Tensor]], stage: Stage) -> Iterator[tuple[str, Tensor]]:
    """Passes tensors on; `stage` is told of each as it is taken."""
    for name, tensor in tensors:
        stage.advance(item=name)
        yield name, tensor


def relative_error(found: Tensor, expected: Tensor) -> float:
    """‖found − expected‖ / ‖expected‖, and ‖found‖ beside zeros."""
    size, off = float(expected.norm()), float((found - expected).norm())
    return off / size if size else off
