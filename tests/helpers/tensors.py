"""Tensors by their names, compared to the bit."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def assert_same_tensors(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """There are tensors, with the names that are expected, and all are equal."""
    assert expected, "there are no tensors"
    assert found.keys() == expected.keys(), f"names of one alone: {sorted(found.keys() ^ expected.keys())}"
    different = [name for name, tensor in expected.items() if not torch.equal(found[name], tensor)]
    assert not different, f"these tensors differ: {different}"
