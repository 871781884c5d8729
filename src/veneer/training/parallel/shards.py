"""The weights of a model in as many parts as there are processes, by torch's `fully_shard` (FSDP2).

Every tensor is cut along its first dimension, and process k holds part k of the weight, of its gradient and of the
optimiser's state. A layer is gathered when it is computed, in forward and again in backward, and freed afterwards. What
is outside the layers (embedding, last norm, head) is gathered from the beginning of a forward pass to the end of its
backward pass. The gradients of a micro-batch are summed over the processes layer by layer, in its backward pass.

So all processes gather together, and each must compute as many micro-batches as any other. torch decides the order in
which gradients are added: the result equals that of one process up to rounding, but not byte for byte. A single process
holds all of every tensor, without `fully_shard`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from veneer.io.checkpoint import Checkpoint
from veneer.model.decoder import CausalLM
from veneer.processes.group import Group

if TYPE_CHECKING:
    from veneer.training.parallel.fully_shard import FullyShard


class Shards:
    """The parts of a model's weights that this process holds.

    Args:
        model: a model without memory, whose weights are cut in place.
        group: the connected processes of the run.
        device: the device of the weights.
    """

    def __init__(self, model: CausalLM, group: Group, device: torch.device):
        self._model, self.group = model, group
        self._fsdp: FullyShard | None = None
        if group.process_group is not None:
            # Other runs need no such imports.
            from veneer.training.parallel.fully_shard import FullyShard

            self._fsdp = FullyShard(model, group.process_group, device)
        model.give_memory(device)
        weights = dict(model.named_parameters())
        self.parts = weights
        """This process's part of each weight, by the weight's name, in the memory of the model."""
        if self._fsdp is not None:
            self.parts = {name: nn.Parameter(self._fsdp.own(weight.detach())) for name, weight in weights.items()}

    @property
    def cut(self) -> bool:
        """Whether there are processes that do not hold everything."""
        return self._fsdp is not None

    @property
    def numbers(self) -> int:
        """The number of all trained weights, over all processes."""
        return sum(weight.numel() for weight in self._model.parameters())

    @torch.no_grad()
    def read(self, name: str, origin: Checkpoint) -> None:
        """Read this process's part of a weight; the whole weight is in memory meanwhile."""
        part = self.parts[name]
        whole = origin.read(name, torch.float32)
        if self.cut:
            first = self.group.ranks.rank * -(-len(whole) // self.group.ranks.world)
            whole = whole[first : first + len(part)]
        part.copy_(whole)

    def take_gradients(self) -> None:
        """Move the gradients from the model's weights to the parts."""
        if self._fsdp is None:
            return
        for name, weight in self._model.named_parameters():
            self.parts[name].grad = None if weight.grad is None else self._fsdp.own(weight.grad)
            weight.grad = None

    def drop_gradients(self) -> None:
        """Drop the gradients of the model's weights, also those of a pass that has failed midway."""
        for weight in self._model.parameters():
            weight.grad = None

    def let_go(self) -> None:
        """Free gathered weights, as a backward pass does; this is for forward passes without one."""
        if self._fsdp is not None:
            self._fsdp.let_go()

    def weights(self) -> dict[str, Tensor]:
        """All weights by name; each knows the place of this process's part."""
        return {name: weight.detach() for name, weight in self._model.named_parameters()}

    def placed(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The optimiser's state in parts, `{name of the weight}/{kind}`, as tensors that know the place of the part."""
        if self._fsdp is None:
            return dict(state)
        weights, placed = self.weights(), {}
        for name, tensor in state.items():
            whole = weights[name.rpartition("/")[0]]
            # A counter belongs to no part: all processes have it.
            placed[name] = self._fsdp.placed(tensor, whole) if tensor.ndim else tensor
        return placed
