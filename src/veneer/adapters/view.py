"""A model of its own for an adapter, over the weights of a base that is in use elsewhere.

A view has modules of its own where modules have parts, and shares the others: linear layers, norms and embeddings. An
adapter that is put on a view replaces modules of the view alone, so that it can be loaded while the base computes.
"""

from __future__ import annotations

import copy
from typing import cast

import torch
from torch import nn

from veneer.adapters.adapter import Adapter
from veneer.adapters.linear import LoraLinear
from veneer.model.decoder import CausalLM
from veneer.native.factors import LayerFactors, StepFactors


def view_of(model: CausalLM) -> CausalLM:
    """A view of a model without an adapter; it takes no memory for weights."""
    return cast(CausalLM, _view(model))


def _view(module: nn.Module) -> nn.Module:
    children = dict(module.named_children())
    if not children:
        return module
    own = copy.copy(module)
    # Each dictionary of the copy is still the original's.
    own._modules = {name: _view(child) for name, child in children.items()}
    own._parameters, own._buffers = dict(module._parameters), dict(module._buffers)
    return own


def step_factors(adapter: Adapter, sites: frozenset[str], dtype: torch.dtype) -> StepFactors | None:
    """The factors of an adapter for the compiled step.

    Args:
        adapter: on a view or a model.
        sites: paths of the layers that the step can update.
        dtype: float32 or bfloat16, which the factors are rounded to.

    Returns:
        None where the adapter is more than low-rank updates of such layers.
    """
    layers: dict[str, LayerFactors] = {}
    for path, module in adapter.modules:
        if type(module) is not LoraLinear or path not in sites:
            return None
        a, b = module.pairs()
        bias = None if module.lora_B_bias is None else module.scale * module.lora_B_bias.detach().float()
        layers[path] = LayerFactors(
            down=a.detach().to(dtype).contiguous(),
            up=b.detach().t().to(dtype).contiguous(),
            scale=module.scale,
            bias=bias,
        )
    return StepFactors(layers=layers)
