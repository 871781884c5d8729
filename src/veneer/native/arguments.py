"""Tensors as arguments of a compiled library: pointers, and a number for each dtype."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

DTYPE_NUMBERS = {torch.float32: 0, torch.bfloat16: 1}
"""The dtypes that kernels compute in, by the numbers that C functions are given."""


def pointer(tensor: Tensor | None) -> ctypes.c_void_p:
    """The address of a tensor; NULL for None."""
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())


def pointers(tensors: Sequence[Tensor]) -> ctypes.Array[ctypes.c_void_p]:
    """The address of each tensor."""
    return (ctypes.c_void_p * len(tensors))(*(tensor.data_ptr() for tensor in tensors))


def kernels_accept(*tensors: Tensor) -> bool:
    """Whether kernels accept these tensors: on the CPU, contiguous, of one supported dtype, not empty."""
    first = tensors[0]
    return first.dtype in DTYPE_NUMBERS and all(
        t.device.type == "cpu" and t.dtype == first.dtype and t.is_contiguous() and t.numel() > 0 for t in tensors
    )
