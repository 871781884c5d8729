"""Which kernels compute with a tensor: the compiled ones on a CPU, Triton's on CUDA, or none, so that torch does the
work.

Triton is imported only when a CUDA tensor needs it: a machine without a GPU does not need it, and the command line
starts without waiting for it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from veneer.native.arguments import kernels_accept
from veneer.native.library import kernels
from veneer.native.stored import StoredMatrix

if TYPE_CHECKING:
    from veneer.gpu.kernels import TritonKernels

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)

MIN_CAPABILITY = (7, 5)
"""The oldest cards that the kernels are compiled for (Turing). Triton itself promises Ampere and later, because of its
matrix products. Only `veneer.gpu.packed` has any, and `veneer.gpu.few_rows` asks for Ampere."""


class SharedKernels(Protocol):
    """The functions of both the compiled library and Triton; tensors are contiguous and of one dtype."""

    def rms_norm_forward(self, x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        """Normalised rows of `x` `[rows, dim]`, and their rstd, float32 `[rows]`."""
        ...

    def rms_norm_backward(self, x: Tensor, weight: Tensor, rstd: Tensor, grad: Tensor) -> Tensor:
        """Gradient of the rows."""
        ...

    def add_rms_norm_forward(
        self, x: Tensor, delta: Tensor, weight: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The sum x + delta in their dtype, its normalised rows, and their rstd, float32 `[rows]`."""
        ...

    def add_rms_norm_backward(
        self, residual: Tensor, weight: Tensor, rstd: Tensor, grad: Tensor, grad_residual: Tensor
    ) -> Tensor:
        """Gradient of x, and of delta: that of the norm plus that of the sum itself."""
        ...

    def swiglu_forward(self, gate: Tensor, up: Tensor) -> Tensor:
        """silu(gate) · up."""
        ...

    def swiglu_backward(self, gate: Tensor, up: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients of gate and up."""
        ...

    def dequantize_4bit(self, weight: StoredMatrix, out: Tensor) -> None:
        """Decode a weight of 4 bits into `out`."""
        ...

    def rotate(self, x: Tensor, cosine: Tensor, sine: Tensor, sign: float) -> Tensor:
        """Rotate `[tokens, heads, dim]` by the angles whose cosine and sine are float32 `[tokens, dim / 2]`."""
        ...


@dataclass(frozen=True, slots=True)
class GpuChoice:
    """Whether Triton's kernels are used on this machine's CUDA devices, and why."""

    used: bool
    reason: str


@lru_cache(maxsize=64)
def triton_choice(device: torch.device | None = None) -> GpuChoice:
    """What computes with tensors on a CUDA device: Triton's kernels, or torch's own operations.

    The answer is found once for each device: one old GPU among several does not decide for the others.

    Args:
        device: the device of the run; by default the first one.
    """
    if not torch.cuda.is_available():
        return GpuChoice(False, "torch sees no CUDA device")
    index = 0 if device is None or device.index is None else device.index
    if torch.version.hip is not None:
        return GpuChoice(False, "the kernels are written for NVIDIA's cards, and torch is built for AMD's")
    capability = torch.cuda.get_device_capability(index)
    if capability < MIN_CAPABILITY:
        found, needed = (".".join(map(str, version)) for version in (capability, MIN_CAPABILITY))
        return GpuChoice(False, f"cuda:{index} has compute capability {found}; the kernels need {needed}")
    try:
        version = importlib.import_module("triton").__version__
    except ImportError as error:
        return GpuChoice(False, f"Triton cannot be imported ({error}); install veneer[gpu]")
    failed = failure_of_a_kernel(torch.device("cuda", index))
    if failed is not None:
        return GpuChoice(False, f"Triton {version} cannot start a kernel here ({failed})")
    return GpuChoice(True, f"Triton {version}")


def failure_of_a_kernel(device: torch.device) -> str | None:
    """Why Triton cannot compile and start a small kernel on the device, in a line; None if it can and the result is
    right.

    Triton compiles a C file at the first launch, which needs Python's headers, a working compiler (`CC`, gcc or clang),
    and a writable folder. Only a trial shows whether they exist.
    """

    def right() -> bool:
        x = torch.ones(2, 8, device=device)
        found = _triton().swiglu_forward(x, x)
        return bool((found - torch.sigmoid(x)).abs().max() < 1e-5)

    return failure(right)


def failure(right: Callable[[], bool]) -> str | None:
    """Why a trial of Triton's kernels fails, in a line; None if the trial returns that the result is right.

    A trial may raise any kind of error, which becomes the reason. Only an error for lack of memory is raised again.
    """
    try:
        found = right()
    except Exception as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        lines = str(error).strip().splitlines()
        return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
    return None if found else "its result is wrong"


@lru_cache(maxsize=1)
def _triton() -> TritonKernels:
    from veneer.gpu.kernels import TritonKernels

    return TritonKernels()


def triton_accepts(*tensors: Tensor) -> bool:
    """Whether Triton's kernels accept these tensors: on one CUDA device, contiguous, of one dtype, not empty."""
    first = tensors[0]
    return (
        first.is_cuda
        and first.dtype in _DTYPES
        and all(t.device == first.device and t.dtype == first.dtype for t in tensors)
        and all(t.is_contiguous() and t.numel() > 0 for t in tensors)
        and triton_choice(first.device).used
    )


def triton_kernels(*tensors: Tensor) -> TritonKernels | None:
    """Triton's kernels, if they accept these tensors."""
    return _triton() if triton_accepts(*tensors) else None


def kernels_for(*tensors: Tensor) -> SharedKernels | None:
    """The kernels for these tensors' device, or None if torch's own operations must be used."""
    triton = triton_kernels(*tensors)
    if triton is not None:
        return triton
    compiled = kernels() if kernels_accept(*tensors) else None
    return None if compiled is None else compiled.rowwise
