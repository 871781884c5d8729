"""Bytes of an optimiser's state, by the names and shapes of what is trained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from math import prod

from veneer.config import OptimizerName
from veneer.plan.setup import Setup
from veneer.quant.dynamic import scales_of

Shape = Sequence[int]

SMALLEST_8BIT = 4096
"""Elements from which on moments are coded, as in bitsandbytes."""
COUNTER = 4
"""Bytes of the number of steps, kept with each tensor."""


def in_8_bits(name: str, shape: Shape) -> bool:
    """Whether an 8-bit optimiser codes the moments of this parameter; those of embeddings stay float32."""
    return prod(shape) >= SMALLEST_8BIT and "embed" not in name


def trained_shapes(setup: Setup) -> Iterator[tuple[str, Shape]]:
    """Name and shape of everything that is trained."""
    for line in chain.from_iterable(layer.values() for layer in setup.linears):
        if setup.full:
            yield f"{line.path}.weight", (line.outputs, line.inputs)
            if line.bias:
                yield f"{line.path}.bias", (line.outputs,)
        elif line.rank:
            yield f"{line.path}.lora_A.weight", (line.rank, line.inputs)
            yield f"{line.path}.lora_B.weight", (line.outputs, line.rank)
    if setup.full:
        spec = setup.spec
        yield "model.embed_tokens.weight", (spec.vocab_size, spec.hidden_size)
        if not spec.tied_head:
            yield "lm_head.weight", (spec.vocab_size, spec.hidden_size)
        for number in range(2 * spec.num_layers + 1):
            yield f"norm.{number}", (spec.hidden_size,)


def parameter_bytes(optimizer: OptimizerName, name: str, shape: Shape) -> int:
    """Bytes kept for one parameter."""
    numel = prod(shape)
    if optimizer in (OptimizerName.LION, OptimizerName.SGD):
        return 4 * numel
    if optimizer is OptimizerName.ADAFACTOR:
        return COUNTER + 4 * (sum(shape) if len(shape) == 2 else numel)
    coded = optimizer in (OptimizerName.ADAMW_8BIT, OptimizerName.PAGED_ADAMW_8BIT) and in_8_bits(name, shape)
    return COUNTER + 2 * (numel + 4 * scales_of(numel) if coded else 4 * numel)


def state_bytes(setup: Setup) -> int:
    """Bytes of the whole state, in memory and in a checkpoint. A paged state counts as if it never left the card."""
    return sum(parameter_bytes(setup.optimizer, name, shape) for name, shape in trained_shapes(setup))
