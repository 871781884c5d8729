"""A setup refuses what a run would refuse, and knows in how many bytes a base is held."""

from __future__ import annotations

import pytest
import torch

from helpers.training.plan_setups import setup
from veneer.adapters.spec import LoraSpec
from veneer.enums import Init, Method
from veneer.errors import AdapterError
from veneer.planning.base import base_bytes


def test_what_cannot_be_adapted_is_refused_as_it_would_be_in_training() -> None:
    with pytest.raises(AdapterError, match="does not have"):
        setup(lora=LoraSpec(rank=16, alpha=32.0, target_modules=("queries",)))
    with pytest.raises(AdapterError, match="q_proj: rank 600, at most 576"):
        setup(lora=LoraSpec(rank=600, alpha=32.0, init=Init.PISSA))


def test_a_frozen_base_takes_the_bytes_of_its_files_where_the_kernels_widen_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for reads, expected in ((True, 2), (False, 4)):
        monkeypatch.setattr("veneer.products.kernels", lambda reads=reads: object() if reads else None)
        narrow, wide = (setup(dtype=torch.float32, file_bytes=size) for size in (2, 4))
        assert narrow.dense_bytes == expected
        assert wide.dense_bytes == 4
        weights = sum(linear.weights for layer in narrow.linears for linear in layer.values())
        assert base_bytes(wide) - base_bytes(narrow) == (4 - expected) * weights
        assert setup(method=Method.FULL, dtype=torch.float32, file_bytes=2).dense_bytes == 4
        assert setup(dtype=torch.bfloat16, file_bytes=4).dense_bytes == 2
        assert setup(dtype=torch.float32, device="cuda", file_bytes=2).dense_bytes == 4
