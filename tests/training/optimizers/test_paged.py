"""Paged AdamW: bitsandbytes' kernels over a state that lies where it is told to; its memory itself needs a card."""

from __future__ import annotations

import bitsandbytes as bnb
import pytest
import torch
from torch import Tensor, nn

from helpers.tensors import assert_same_tensors
from helpers.training.tiny_parameters import advance, gradients, parameters
from veneer.config import TrainSection
from veneer.enums import OptimizerName
from veneer.errors import ConfigError
from veneer.training.optimizers import paged
from veneer.training.optimizers.base import RuleOptimizer
from veneer.training.optimizers.choose import make_rule
from veneer.training.optimizers.paged import PagedAdamW

SHAPES = {"large": (400, 300), "middle": (90, 70), "small": (5, 3), "model.embed_tokens.weight": (400, 300)}
BETAS = (0.9, 0.95)


class HostPages:
    """Ordinary memory that notes what is asked of it."""

    def __init__(self) -> None:
        self.made: list[Tensor] = []
        self.fetched = self.settled = 0

    def zeros(self, like: nn.Parameter, dtype: torch.dtype) -> Tensor:
        self.made.append(torch.zeros(like.shape, dtype=dtype))
        return self.made[-1]

    def fetch(self, tensor: Tensor) -> None:
        self.fetched += any(tensor is one for one in self.made)

    def settle(self) -> None:
        self.settled += 1


@pytest.mark.parametrize("eight_bits", [False, True])
def test_steps_are_those_of_bitsandbytes_paged_optimizers(eight_bits: bool) -> None:
    shapes = {name: shape for name, shape in SHAPES.items() if "embed" not in name}
    ours, theirs, pages = parameters(shapes), parameters(shapes), HostPages()
    optimizer = RuleOptimizer(ours, PagedAdamW(BETAS, eight_bits, pages), weight_decay=0.1)
    kind = bnb.optim.PagedAdamW8bit if eight_bits else bnb.optim.PagedAdamW
    peer = kind(theirs.values(), lr=0.02, betas=BETAS, eps=1e-8, weight_decay=0.1)
    for step in range(4):
        for name, grad in gradients(step, ours).items():
            ours[name].grad, theirs[name].grad = grad.clone(), grad.clone()
        optimizer.step(0.02)
        if step == 0:
            with pytest.warns(UserWarning, match="Paged optimizers are not supported on CPU"):
                peer.step()
        else:
            peer.step()
    assert_same_tensors(ours, theirs)


def test_large_states_alone_are_paged_and_the_host_waits_for_every_step() -> None:
    pages = HostPages()
    optimizer = RuleOptimizer(parameters(SHAPES), PagedAdamW(BETAS, True, pages), weight_decay=0.0)
    assert [(tuple(t.shape), t.dtype) for t in pages.made] == [((400, 300), torch.uint8)] * 2 + [
        ((400, 300), torch.float32)
    ] * 2
    advance(optimizer, [0.1, 0.1])
    assert (pages.fetched, pages.settled) == (8, 2)
    state = optimizer.tensors()
    assert {tuple(tensor.shape) for key, tensor in state.items() if key.startswith("middle") and "absmax" in key} == {
        (25,)
    }


def test_without_bitsandbytes_cuda_is_refused_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paged, "installed", lambda name: False)
    section = TrainSection(optimizer=OptimizerName.PAGED_ADAMW)
    with pytest.raises(ConfigError, match=r"need bitsandbytes on CUDA.*pip install bitsandbytes"):
        make_rule(section, torch.device("cuda"))
