"""Gradients keep their place in memory, and their values."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from veneer.training.memory_use.kept_gradients import gradients_in_place


class Two(nn.Module):
    """Two weights, of which the second is used where it is asked for."""

    def __init__(self) -> None:
        super().__init__()
        source = torch.Generator().manual_seed(3)
        self.first, self.second = (nn.Parameter(torch.randn(7, 5, generator=source)) for _ in range(2))

    def forward(self, x: Tensor, *, both: bool) -> Tensor:
        found = (x @ self.first).square().sum()
        return found + (x @ self.second).sin().sum() if both else found


def stepped(model: Two, *, both: bool = True) -> list[Tensor | None]:
    """The gradients of two micro-batches, which are cleared then as an optimiser clears them."""
    for seed in (1, 2):
        model(torch.randn(4, 7, generator=torch.Generator().manual_seed(seed)), both=both).backward()
    grads = [one.grad for one in model.parameters()]
    for one in model.parameters():
        one.grad = None
    return grads


def places(grads: list[Tensor | None]) -> list[int]:
    return [0 if grad is None else grad.data_ptr() for grad in grads]


def test_gradients_are_the_same_bits_at_the_same_place_in_every_step() -> None:
    model = Two()
    expected = stepped(model)
    with gradients_in_place(model.parameters()):
        first = stepped(model)
        for grad in first:
            assert grad is not None
            grad.mul_(3)  # as clipping does, or a rule that writes into what it was given
        again = stepped(model)
        assert places(first) == places(again)
    for one, other in zip(expected, again, strict=True):
        assert one is not None
        assert other is not None
        assert torch.equal(one, other)


def test_a_parameter_without_a_gradient_still_has_none() -> None:
    model = Two()
    with gradients_in_place(model.parameters()):
        assert all(grad is not None for grad in stepped(model))
        first, second = stepped(model, both=False)
        assert first is not None
        assert second is None


def test_after_the_block_gradients_have_memory_of_their_own() -> None:
    model = Two()
    with gradients_in_place(model.parameters()):
        kept = stepped(model)
    held = [torch.zeros(0) if grad is None else grad.clone() for grad in kept]
    after = stepped(model)
    assert not set(places(kept)) & set(places(after))
    assert all(other is not None and torch.equal(one, other) for one, other in zip(held, kept, strict=True))
