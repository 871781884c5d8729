"""Gradients that keep their place in memory from step to step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn


@contextmanager
def gradients_in_place(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """Keep each parameter's gradient in the same memory in every step of the block.

    Otherwise autograd allocates memory for each gradient in each step's first backward pass, between activations that
    are about to be freed. This leaves holes in glibc's heap that are too small for the next micro-batch's activations:
    full fine-tuning of 30M weights took up to 140 MB more of 1,100. No gradient's value changes: the first gradient of
    a step is copied to its place, and autograd adds the others there. A parameter without a gradient still has none.

    Args:
        parameters: parameters whose gradients are in float32 or wider, as they are for trained weights.
    """
    # Zeros use no memory pages until they are written: a parameter that never has a gradient costs nothing.
    hooks = [
        parameter.register_post_accumulate_grad_hook(partial(_move, torch.zeros_like(parameter, requires_grad=False)))
        for parameter in parameters
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def _move(place: Tensor, parameter: Tensor) -> None:
    """Move the parameter's gradient into `place`."""
    if parameter.grad is not None and parameter.grad is not place:
        parameter.grad = place.copy_(parameter.grad)
