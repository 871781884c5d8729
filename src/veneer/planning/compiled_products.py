"""The memory that libraries keep for the shapes of matrix products."""

from __future__ import annotations

from veneer.model.windowed import BLOCK_ROWS
from veneer.padding import PAD_TO_MULTIPLE_OF, pad_to_multiple
from veneer.planning.attention_scratch import longest_seen
from veneer.planning.batch_shape import BatchShape
from veneer.planning.setup import Setup
from veneer.products import compiled
from veneer.widening import torch_multiplies

FLOAT32_BUFFERS = 12_000_000
"""Bytes of the buffers that the library of float32 products (MKL) keeps."""
KERNEL = 600_000
"""Bytes of machine code and tables that oneDNN keeps for each shape of a bfloat16 product (see `padding`)."""
KERNELS_KEPT = 1024
"""Largest number of such kernels that oneDNN keeps."""


def compiled_bytes(setup: Setup, batch: BatchShape) -> int:
    """Memory that libraries of products keep. oneDNN keeps a kernel for each shape of product and number of tokens."""
    if setup.dtype.itemsize == 4:
        return FLOAT32_BUFFERS  # MKL compiles nothing
    if not torch_multiplies(setup.dtype) or (not setup.full and compiled()):
        return 0
    products: set[tuple[str, int, int]] = set()
    for linear in setup.linears[0].values():
        products |= {("forward", linear.inputs, linear.outputs), ("backward", linear.outputs, linear.inputs)}
        if setup.full:
            products.add(("gradient", linear.outputs, linear.inputs))
        if linear.rank:
            products |= {("x A", linear.inputs, linear.rank), ("B", linear.rank, linear.outputs)}
            products |= {("dy B", linear.outputs, linear.rank), ("A", linear.rank, linear.inputs)}
            products |= {("dA", linear.rank, linear.inputs), ("dB", linear.outputs, linear.rank)}
    chunks = 3 * min(8, batch.shapes)
    # Each expert of a mixture has its own number of rows.
    shapes = batch.shapes if setup.spec.mixture is None else max(batch.shapes, batch.tokens // PAD_TO_MULTIPLE_OF)
    return KERNEL * min(KERNELS_KEPT, shapes * len(products) + chunks)


def compiled_by_document(setup: Setup, batch: BatchShape) -> int:
    """Kernels that oneDNN keeps for attention in blocks (`veneer.model.windowed`).

    There are six products. They meet about half of the possible numbers of queries and keys.
    """
    seen = longest_seen(setup, batch)
    if setup.dtype.itemsize == 4 or not seen or not torch_multiplies(setup.dtype):
        return 0
    rows = min(BLOCK_ROWS, batch.shared + batch.longest)
    return KERNEL * 3 * (pad_to_multiple(rows) + pad_to_multiple(seen)) // PAD_TO_MULTIPLE_OF
