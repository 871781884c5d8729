"""The memory that an allocator holds beyond the tensors: holes between them. The shares for a CPU are measured."""

from __future__ import annotations

from veneer.enums import Variant
from veneer.native.processor import AMX_FLAG, cpu_flags
from veneer.planning.setup import Setup

HEAP_SHARE = {2: 0.36, 4: 0.42}
"""Holes in the heap as a share of what a step allocates and frees, by the bytes of an activation. They are the largest
shares that benchmarks/plan_grid.py measured."""
HEAP_SHARE_ROW_LOSSES = 0.2
"""The share of additional holes in float32 if losses of single rows enter a formula with a frozen head, on processors
with AMX: gradients are then formed in forward, between memory that is freed (measured on pairs, on Sapphire Rapids: up
to 12 MB more of 600, a different amount each time). Zen 4 has none of them, and in bfloat16 they are gone since
veneer's own kernels multiply in tiles."""
HEAP_SHARE_RECOMPUTED = 0.52
"""The share of holes with recomputation, in which little is kept and most is allocated again for every layer."""
HEAP_SHARE_FULL = 0.30
"""The share of holes in full fine-tuning, in which gradients and optimiser state stay in place."""
HEAP_SHARE_FULL_RECOMPUTED = {2: 0.2, 4: 0.48}
"""The share of holes in full fine-tuning with recomputation, by the bytes of an activation. On processors with AMX the
larger one applies: in 16 bits torch's products lay out copies of their operands there, between other tensors."""
HEAP_SHARE_DORA = 0.26
"""The share of holes with DoRA, which keeps one more large tensor for each layer."""
HEAP_SHARE_MIXTURE, HEAP_SHARE_MIXTURE_RECOMPUTED = 0.45, 1.3
"""The shares of holes with a mixture, whose experts have different numbers of rows in every step."""
FACTORS_SHARE = 0.2
"""Holes that the gradients of A and B leave, as a share of their size: small tensors among large ones."""
GPU_HEAP_SHARE = 0.1
"""The estimated share of holes in torch's allocator on a GPU."""


def heap_holes(setup: Setup, moving: int, *, recompute: bool) -> int:
    """Bytes of holes in the allocator's memory between tensors.

    glibc takes blocks of up to 32 MB from one heap once a block of that size has been freed, and memory that is freed
    in the middle of the heap stays resident. Freed tensors leave holes between the tensors that are kept for backward.
    The next tensor that is not larger fills a hole and leaves a smaller one. After the rehearsal and two steps the heap
    no longer grows.
    """
    if setup.device != "cpu":
        return int(moving * GPU_HEAP_SHARE)
    tiles = AMX_FLAG in cpu_flags()
    if setup.full:
        if not recompute:
            return int(moving * HEAP_SHARE_FULL)
        return int(moving * HEAP_SHARE_FULL_RECOMPUTED[4 if tiles else setup.dtype.itemsize])
    if setup.spec.mixture is not None:
        share = HEAP_SHARE_MIXTURE_RECOMPUTED if recompute else HEAP_SHARE_MIXTURE
    elif recompute:
        share = HEAP_SHARE_RECOMPUTED
    else:
        share = HEAP_SHARE_DORA if setup.lora.variant is Variant.DORA else HEAP_SHARE[setup.dtype.itemsize]
    frozen_head = not (setup.trained_head or setup.head_is_adapted)
    if tiles and setup.dtype.itemsize == 4 and setup.row_losses and frozen_head:
        share += HEAP_SHARE_ROW_LOSSES
    factors = 4 * sum(linear.factors for linear in setup.every_linear)
    return int(moving * share + factors * FACTORS_SHARE)
