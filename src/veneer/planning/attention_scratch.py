"""The memory that attention's backward pass needs besides queries, keys, values and their gradients, by
implementation."""

from __future__ import annotations

from veneer.model.windowed import BLOCK_ROWS
from veneer.padding import pad_to_multiple
from veneer.planning.activations import attended_keys, by_compiled_kernel, by_flash
from veneer.planning.batch_shape import BatchShape
from veneer.planning.setup import Setup

ATTENTION_COPIES = 6
"""Number of float32 tensors of a block's scores in backward: scaled, capped, masked, softmax, and gradients."""
FLASH_ROWS = 128
"""FlashAttention's sums of a document have a number of rows that is a multiple of this, plus as many more."""
ATTENTION_BLOCK = 32
"""Number of query rows that the attention kernel computes at a time (native/attention.h)."""


def attention_scratch(setup: Setup, batch: BatchShape) -> int:
    """Bytes of scratch memory, for the compiled kernel or for attention on a GPU."""
    return _of_the_kernel(setup, batch) if setup.device == "cpu" else _on_a_gpu(setup, batch)


def _of_the_kernel(setup: Setup, batch: BatchShape) -> int:
    """Float32 scratch memory of the compiled attention kernel, for all heads and for each thread."""
    spec = setup.spec
    width = -(-batch.longest // ATTENTION_BLOCK) * ATTENTION_BLOCK
    per_thread = (7 * width * spec.head_dim + 4 * ATTENTION_BLOCK * (spec.head_dim + width)) * 4
    tokens = batch.tokens + batch.shared * batch.documents
    return 8 * tokens * spec.num_heads * spec.head_dim + per_thread * setup.threads


def _on_a_gpu(setup: Setup, batch: BatchShape) -> int:
    """The memory of attention's backward pass on a GPU besides the gradients of queries, keys and values.

    FlashAttention sums the queries' gradients in float32, in rows that are padded for each document, and computes the
    gradients of keys and values for each query head before it adds those of a group. A shared beginning's gradients are
    computed for each document and gathered before they are added, also if each document is a separate call.
    """
    spec, size = setup.spec, setup.dtype.itemsize
    by_head, by_key_head = spec.num_heads * spec.head_dim, spec.num_kv_heads * spec.head_dim
    keys, copies = attended_keys(setup, batch), batch.shared * (batch.documents + 1)
    if not by_flash(setup):
        expanded = 2 * (keys + copies) * by_key_head
        return (batch.tokens * by_head + expanded + 8 * (batch.shared + batch.longest) * by_head) * size
    sums = 4 * (batch.tokens + FLASH_ROWS * batch.documents) * by_head
    expanded = 2 * keys * by_head * size if spec.num_heads != spec.num_kv_heads else 0
    return sums + max(expanded, copies * by_key_head * size) + 2 * copies * by_key_head * size


def scratch_by_document(setup: Setup, batch: BatchShape, keys: int) -> int:
    """Memory of attention in blocks (`veneer.model.windowed`).

    It has a block's scores and their gradients, and float32 sums of the keys' and values' gradients.
    """
    spec, seen = setup.spec, longest_seen(setup, batch)
    rows = min(BLOCK_ROWS, batch.shared + batch.longest)
    return (
        ATTENTION_COPIES * 4 * spec.num_heads * pad_to_multiple(rows) * pad_to_multiple(seen) + 2 * keys if seen else 0
    )


def longest_seen(setup: Setup, batch: BatchShape) -> int:
    """The largest number of keys of a block if attention is computed in blocks; otherwise 0."""
    spec = setup.spec
    if by_compiled_kernel(setup):
        return 0  # the compiled kernel supports windows, soft caps and sinks
    longest, windows = batch.shared + batch.longest, not by_flash(setup)
    seen = [
        longest if attention_spec.window is None else min(longest, attention_spec.window + BLOCK_ROWS)
        for attention_spec in {layer.attention_spec for layer in spec.layers}
        if spec.sinks
        or attention_spec.softcap is not None
        or (windows and attention_spec.window_within(longest) is not None)
    ]
    return max(seen, default=0)
