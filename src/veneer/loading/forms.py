"""The forms of weights in memory, and which of them stay in the blocks of a GGUF file."""

from __future__ import annotations

from enum import Enum

from veneer.enums import Products
from veneer.products import reads_blocks


class WeightForm(Enum):
    """The form of the weights in memory."""

    FROZEN = "frozen"
    """Weights in the compute dtype, without gradients: the base of LoRA. Quantised weights of the files stay quantised;
    those of a GGUF file stay in blocks if the kernels read them. Linear layers that compute in float32 keep 16 bits per
    weight if the kernels widen them."""
    QUANTIZED = "quantized"
    """Linear layers in 4 or 8 bits, everything else as FROZEN: the base of QLoRA. If the files have quantised weights,
    no other weight is quantised."""
    TRAINABLE = "trainable"
    """Weights in float32, with gradients: full fine-tuning."""


class TableForm(Enum):
    """The form of embedding and head in memory."""

    DENSE = "dense"
    """Tensors in the form of `WeightForm`, which can be trained and written."""
    STORED = "stored"
    """In the blocks of a GGUF file if kernels read these, otherwise as DENSE: for models that only answer."""


def keeps_blocks(trained: bool, products: Products, device: str) -> bool:
    """Whether linear layers that are not quantised on loading stay in the blocks of a GGUF file.

    Args:
        trained: whether the weights themselves are trained.
        products: products of the linear layers.
        device: kind of device, `cpu` or `cuda`.
    """
    return not trained and products is Products.EXACT and reads_blocks(device)


def keeps_table_blocks(form: TableForm, trained: bool, device: str) -> bool:
    """Whether embedding and head stay in the blocks of a GGUF file; see `keeps_blocks`."""
    return form is TableForm.STORED and not trained and reads_blocks(device)
