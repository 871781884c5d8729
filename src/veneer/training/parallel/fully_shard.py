"""A model under torch's `fully_shard` (FSDP2). Importing it takes 0.7 s and 50 MB, so only runs that need it do.

See https://docs.pytorch.org/docs/stable/distributed.fsdp.fully_shard.html.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, Shard

from veneer.model.decoder import CausalLM


class FullyShard:
    """A model whose weights are cut along their first dimension, layer by layer.

    Args:
        model: the model, which is changed in place; its weights may have no memory yet.
        group: the processes.
        device: the device of the weights.
    """

    def __init__(self, model: CausalLM, group: ProcessGroup, device: torch.device):
        self._mesh = DeviceMesh.from_group(group, device.type)
        for layer in model.model.layers:
            fully_shard(layer, mesh=self._mesh)
        self._root = fully_shard(model, mesh=self._mesh)
        # The model is called by this method, and not as a module.
        register_fsdp_forward_method(model, "hidden")
        for module in model.modules():
            if isinstance(module, FSDPModule):
                # Losses are divided by the weights of the whole step, so gradients are summed and not averaged.
                module.set_gradient_divide_factor(1.0)
                module.set_force_sum_reduction_for_comms(True)

    def own(self, tensor: Tensor) -> Tensor:
        """This process's part of a weight or a gradient, in the same memory."""
        assert isinstance(tensor, DTensor)
        return tensor.to_local()

    def placed(self, part: Tensor, weight: Tensor) -> Tensor:
        """A tensor that is divided like a weight, made from this process's part of it."""
        shape, stride = weight.shape, tuple(weight.stride())
        return DTensor.from_local(part, self._mesh, [Shard(0)], run_check=False, shape=shape, stride=stride)

    def let_go(self) -> None:
        """Free gathered weights."""
        self._root.reshard()
