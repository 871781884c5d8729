"""Bytes of an optimiser's state, from the names and shapes of the trained tensors."""

from __future__ import annotations

from math import prod

from veneer.enums import OptimizerName
from veneer.planning.setup import Setup
from veneer.planning.trained import Shape
from veneer.quant.dynamic import scales_of

SMALLEST_8BIT = 4096
"""The fewest elements for 8-bit moments, as in bitsandbytes."""
COUNTER = 4
"""Bytes of the step counter of each tensor."""


def in_8_bits(name: str, shape: Shape) -> bool:
    """Whether an 8-bit optimiser stores the moments of this parameter in 8 bits. Those of embeddings stay float32."""
    return prod(shape) >= SMALLEST_8BIT and "embed" not in name


def parameter_bytes(optimizer: OptimizerName, name: str, shape: Shape) -> int:
    """Bytes of state for one parameter."""
    numel = prod(shape)
    if optimizer in (OptimizerName.LION, OptimizerName.SGD):
        return 4 * numel
    if optimizer is OptimizerName.ADAFACTOR:
        return COUNTER + 4 * (sum(shape) if len(shape) == 2 else numel)
    coded = optimizer in (OptimizerName.ADAMW_8BIT, OptimizerName.PAGED_ADAMW_8BIT) and in_8_bits(name, shape)
    return COUNTER + 2 * (numel + 4 * scales_of(numel) if coded else 4 * numel)


def state_bytes(setup: Setup) -> int:
    """Bytes of the whole state, in memory and in a checkpoint. A paged state counts as if it never left the card."""
    return sum(parameter_bytes(setup.optimizer, name, shape) for name, shape in setup.trained)
