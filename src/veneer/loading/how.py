"""How to load a model, with any backend."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from veneer.config import QuantSection
from veneer.enums import Products
from veneer.loading.forms import TableForm, WeightForm
from veneer.quant.schemes import skipped


@dataclass(frozen=True, slots=True, kw_only=True)
class Loading:
    """The form of the weights in memory, and the products with them."""

    form: WeightForm = WeightForm.FROZEN
    """The form of the weights. TRAINABLE weights are always float32, regardless of `dtype`."""
    dtype: torch.dtype = torch.bfloat16
    """The dtype of activations and products, and of frozen weights."""
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    """The device that the weights are moved to, tensor by tensor."""
    products: Products = Products.EXACT
    """The products of the linear layers. INT8 replaces the weights (decoded, if they are quantised) by 8-bit copies. It
    is not possible with TRAINABLE."""
    quant: QuantSection = field(default_factory=QuantSection)
    """The settings of QUANTIZED. They have no effect on files that are quantised already."""
    quantised_from: torch.dtype | None = None
    """The dtype to which weights are rounded before they are quantised; None means `dtype`. An adapter that was trained
    in another dtype needs the dtype of its training here to get its own base."""
    tables: TableForm = TableForm.DENSE
    """The form of embedding and head."""
    progress: Callable[[str], None] = lambda name: None
    """A function that is called with the name of every tensor that is read."""

    def dense(self, paths: Sequence[str], *, stored: bool) -> frozenset[str]:
        """The linear layers that are not quantised on loading: all of them, if the files have quantised weights
        (`stored`).

        Raises:
            ConfigError: `quant` skips layers that do not exist.
        """
        if self.form is WeightForm.QUANTIZED and not stored:
            return skipped(paths, self.quant.skip_modules)
        return frozenset(paths)


DEFAULTS = Loading()
