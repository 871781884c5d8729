"""The probe gives rates, in a moment."""

from __future__ import annotations

import pytest
import torch

from veneer.diagnosis.probe import probe


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_probe_measures_in_a_moment(dtype: torch.dtype) -> None:
    measured = probe(torch.device("cpu"), dtype)
    assert min(measured.products.reached, measured.attention, measured.torch_attention) > 0
    assert measured.int8_products is None or measured.int8_products > 0
    for rate in filter(None, (measured.products, measured.attention_rate, measured.next_tokens)):
        assert rate.reached > 0
        assert rate.peak is None or rate.peak > 0
