"""The factors of an adapter as the compiled step reads them."""

from __future__ import annotations

import torch

from veneer.adapters.adapter import Adapter
from veneer.adapters.linear import LoraLinear
from veneer.native.factors import LayerFactors, StepFactors


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
