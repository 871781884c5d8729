"""Machine code that a library of products keeps for each shape that it has met."""

from __future__ import annotations

import pytest
import torch

from helpers.training.plan_setups import setup
from veneer.enums import Method
from veneer.planning.batch_shape import BatchShape
from veneer.planning.compiled_products import (
    FLOAT32_BUFFERS,
    KERNEL,
    KERNELS_KEPT,
    compiled_by_document,
    compiled_bytes,
)


def cut(shapes: int) -> BatchShape:
    return BatchShape(tokens=256, longest=64, supervised=100, documents=4, shapes=shapes)


def test_in_float32_nothing_is_compiled() -> None:
    for method in Method:
        assert compiled_bytes(setup(method=method, dtype=torch.float32), cut(3)) == FLOAT32_BUFFERS


def test_each_shape_of_product_is_compiled_for_each_number_of_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("veneer.planning.compiled_products.compiled", lambda: False)
    monkeypatch.setattr("veneer.planning.compiled_products.torch_multiplies", lambda dtype: True)
    # SmolLM2: q and o are of one shape, k and v of one, gate and up of one, and down is alone. Each goes forward and
    # backward, o's way back is q's way forward, and in full fine-tuning each has the product of its gradient.
    of = setup(method=Method.FULL)
    products = 3 * 4
    assert compiled_bytes(of, cut(1)) == KERNEL * (products + 3)
    assert compiled_bytes(of, cut(10)) == KERNEL * (10 * products + 3 * 8)
    assert compiled_bytes(of, cut(10**6)) == KERNEL * KERNELS_KEPT


def test_veneers_own_products_compile_nothing_beside_a_frozen_base(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("veneer.planning.compiled_products.compiled", lambda: True)
    monkeypatch.setattr("veneer.planning.compiled_products.torch_multiplies", lambda dtype: True)
    assert compiled_bytes(setup(method=Method.LORA), cut(3)) == 0
    assert compiled_bytes(setup(method=Method.FULL), cut(3)) > 0


def test_where_onednn_has_no_bfloat16_torch_compiles_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("veneer.planning.compiled_products.compiled", lambda: False)
    monkeypatch.setattr("veneer.planning.compiled_products.torch_multiplies", lambda dtype: False)
    for method in Method:
        assert compiled_bytes(setup(method=method), cut(3)) == 0


def test_attention_that_is_not_in_blocks_has_no_products_of_its_own() -> None:
    assert compiled_by_document(setup(device="cuda"), cut(3)) == 0
