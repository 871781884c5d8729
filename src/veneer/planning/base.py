"""The memory of a base's weights, in the form of the method."""

from __future__ import annotations

from veneer.adapters.targets import EMBEDDING, HEAD, is_router
from veneer.enums import Products
from veneer.loading.forms import TableForm, keeps_table_blocks
from veneer.planning.setup import Setup
from veneer.quant.blocks import row_bytes
from veneer.quant.schemes import packed_bytes


def base_bytes(setup: Setup) -> int:
    """Bytes of all weights of the base, in the form of the method."""
    size = 4 if setup.full else setup.dtype.itemsize
    tables = (EMBEDDING,) if setup.spec.tied_head else (EMBEDDING, HEAD)
    total = (setup.other_weights - len(tables) * setup.head_weights) * size
    total += sum(_table_bytes(setup, path, size) for path in tables)
    for linear in setup.every_linear:
        if linear.experts:
            continue
        if setup.products is Products.INT8 and not is_router(linear.path):
            total += 2 * linear.weights + 8 * (linear.inputs + linear.outputs)
        elif (held := setup.block_bytes(linear)) is not None:
            total += held
        elif linear.path in setup.dense:
            total += linear.weights * (size if is_router(linear.path) else setup.dense_bytes)
        else:
            total += packed_bytes(linear.outputs, linear.inputs, setup.quant)
    return total


def decoded_bytes(setup: Setup) -> int:
    """Bytes of all packed weights of a base if they are kept decoded; 0 if no weight is packed. Products in int8 use
    another form of the weights, and decode none."""
    if setup.products is Products.INT8:
        return 0
    packed = (one for one in setup.every_linear if one.path not in setup.dense or setup.block_bytes(one) is not None)
    return setup.dtype.itemsize * sum(one.weights for one in packed)


def _table_bytes(setup: Setup, path: str, size: int) -> int:
    """Bytes of the embedding or the head, with `size` bytes a weight unless it is held in blocks."""
    kind = setup.tables.get(path)
    if kind is None or not keeps_table_blocks(TableForm.STORED, setup.full, setup.device):
        return setup.head_weights * size
    return setup.spec.vocab_size * row_bytes(kind, setup.spec.hidden_size)
