"""AdamW with its state in paged memory (Dettmers et al., 2023, QLoRA, arXiv:2305.14314, section 3), on CUDA.

Pages of CUDA's managed memory move to the main memory when the card is full, and back when a kernel needs them. So if
the state does not fit next to a long row, the run slows down for that row and does not fail. torch has no such memory;
bitsandbytes has it, with kernels that accept it, and both are used here through the functions that its own paged
optimisers call. On a CPU there is nothing to do: the operating system pages by itself
(`veneer.training.optimizers.choose`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Protocol

import torch
from torch import Tensor, nn

from veneer.errors import ConfigError
from veneer.planning.optimizer import in_8_bits
from veneer.quant.dynamic import DynamicMap, map_values, scales_of
from veneer.runtime.packages import installed
from veneer.training.optimizers.adamw import EPSILON
from veneer.training.optimizers.base import Member, State, counter

SMALLEST = 100_000
"""The fewest elements of a tensor that is paged, as in bitsandbytes: pages are 2 MB."""


def _bitsandbytes() -> ModuleType:
    # An optional package that takes seconds to import, only for runs that need it.
    from bitsandbytes import functional

    return functional


class Pages(Protocol):
    """The memory of a state's large tensors."""

    def zeros(self, like: nn.Parameter, dtype: torch.dtype) -> Tensor:
        """A tensor of zeros with the parameter's shape."""
        ...

    def fetch(self, tensor: Tensor) -> None:
        """Begin to move a tensor to the card, if it is not there."""
        ...

    def settle(self) -> None:
        """Wait until all kernels are done, so that the host may read."""
        ...


class ManagedPages:
    """bitsandbytes' managed memory. It is freed when the process ends: bitsandbytes has no call for it."""

    def __init__(self) -> None:
        if not installed("bitsandbytes"):
            raise ConfigError(
                "train.optimizer paged_adamw and paged_adamw8bit need bitsandbytes on CUDA, which is not installed; "
                "`pip install bitsandbytes`, or use train.optimizer=adamw8bit, whose state is a quarter of adamw's"
            )

    def zeros(self, like: nn.Parameter, dtype: torch.dtype) -> Tensor:
        """A tensor of zeros in managed memory, which torch treats as host memory."""
        functional = _bitsandbytes()
        found: Tensor = functional.get_paged(*like.shape, dtype=dtype, device=like.device)
        functional.fill(found, 0)
        return found

    def fetch(self, tensor: Tensor) -> None:
        """Begin to move a tensor to the card; a tensor that is already there stays."""
        if tensor.device.type == "cpu":
            _bitsandbytes().prefetch_tensor(tensor)

    def settle(self) -> None:
        """Wait for all work of the card."""
        torch.cuda.synchronize()


@dataclass(frozen=True, slots=True)
class PagedAdamW:
    """The rule of AdamW in bitsandbytes' kernels."""

    betas: tuple[float, float]
    eight_bits: bool
    pages: Pages

    def state(self, name: str, parameter: nn.Parameter) -> State:
        """The state before the first step, like that of `AdamW` or `AdamW8bit`."""
        coded = self.eight_bits and in_8_bits(name, parameter.shape)
        dtype = torch.uint8 if coded else torch.float32
        kept = {
            "step": counter(),
            "exp_avg": self._zeros(parameter, dtype),
            "exp_avg_sq": self._zeros(parameter, dtype),
        }
        if coded:
            for kind in ("exp_avg_absmax", "exp_avg_sq_absmax"):
                kept[kind] = torch.zeros(scales_of(parameter.numel()), dtype=torch.float32, device=parameter.device)
        return kept

    def _zeros(self, parameter: nn.Parameter, dtype: torch.dtype) -> Tensor:
        if parameter.numel() < SMALLEST:
            return torch.zeros_like(parameter, dtype=dtype, requires_grad=False)
        return self.pages.zeros(parameter, dtype)

    def update(self, members: Sequence[Member], rate: float, weight_decay: float) -> None:
        """Run one kernel for each tensor. The host waits for the last one, since checkpoints read the state as host
        memory."""
        for member in members:
            for kind in ("exp_avg", "exp_avg_sq"):
                self.pages.fetch(member.state[kind])
            member.state["step"] += 1
            if "exp_avg_absmax" in member.state:
                self._coded(member, rate, weight_decay)
            else:
                self._exact(member, rate, weight_decay)
        self.pages.settle()

    def _exact(self, member: Member, rate: float, weight_decay: float) -> None:
        state, (beta1, beta2) = member.state, self.betas
        _bitsandbytes().optimizer_update_32bit(
            "adam", member.grad, member.parameter, state["exp_avg"], beta1, EPSILON, int(state["step"]), rate,
            state["exp_avg_sq"], beta2, weight_decay=weight_decay,
        )  # fmt: skip

    def _coded(self, member: Member, rate: float, weight_decay: float) -> None:
        state, (beta1, beta2), device = member.state, self.betas, member.parameter.device
        _bitsandbytes().optimizer_update_8bit_blockwise(
            "adam", member.grad, member.parameter, state["exp_avg"], state["exp_avg_sq"], beta1, beta2, 0.0, 0.0,
            EPSILON, int(state["step"]), rate, map_values(DynamicMap.SIGNED).to(device),
            map_values(DynamicMap.UNSIGNED).to(device), state["exp_avg_absmax"], state["exp_avg_sq_absmax"],
            weight_decay=weight_decay,
        )  # fmt: skip
