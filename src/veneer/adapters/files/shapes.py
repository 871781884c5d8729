"""The number of dimensions of a tensor in an adapter's file, by its name.

The code that reads an adapter takes ranks, numbers of rows and widths of weights from its tensors. So a tensor with the
wrong number of dimensions is refused first.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain

from torch import Tensor

from veneer.adapters.files.names import FACTOR_PAIRS, MAGNITUDE, TOKEN_ROWS

_DIMENSIONS = {
    **dict.fromkeys((f".{name}" for name in chain.from_iterable(FACTOR_PAIRS)), 2),
    f".{TOKEN_ROWS}": 2,
    f".{MAGNITUDE}": 1,
    ".bias": 1,
}
"""Dimensions by the end of a name. Weights that are saved whole have those of their module: one for a norm's, and two
for a layer's."""


def odd_shapes(tensors: Mapping[str, Tensor]) -> list[str]:
    """The tensors that are empty or have a wrong number of dimensions for their names, in words."""
    problems = []
    for name, tensor in tensors.items():
        wanted = next((count for end, count in _DIMENSIONS.items() if name.endswith(end)), None)
        right = tensor.dim() > 0 if wanted is None else tensor.dim() == wanted
        if not right or not tensor.numel():
            rule = "at least one dimension" if wanted is None else f"{wanted} dimension{'s' if wanted > 1 else ''}"
            problems.append(f"{name}: shape {list(tensor.shape)}, must have {rule}, each above 0")
    return problems
