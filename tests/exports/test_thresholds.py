from __future__ import annotations

import pytest
import torch

from veneer.enums import Scheme
from veneer.exports.gguf_adapter import FORMATS
from veneer.exports.request import StoredDtype
from veneer.exports.tensors import relative_error
from veneer.exports.thresholds import TENSOR, threshold_of
from veneer.io.gguf.encode import Quant, encode
from veneer.io.gguf.reader import decode


def test_every_format_that_is_written_has_a_threshold_and_no_other_has() -> None:
    dense = {one.value for one in StoredDtype if one is not StoredDtype.AUTO}
    packed = {one.value for one in Scheme if one is not Scheme.INT8}
    named = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}
    gguf = {named.get(one.value, one.value) for one in Quant}
    assert set(TENSOR) == dense | packed | gguf | set(FORMATS.values())


@pytest.mark.parametrize("name", ["q8_0", "q4_0", "q4_k_m"])
def test_the_threshold_of_a_rounding_format_is_some_times_what_it_costs_a_normal_matrix(name: str) -> None:
    from gguf.constants import GGMLQuantizationType as Kind

    kind = {"q8_0": Kind.Q8_0, "q4_0": Kind.Q4_0, "q4_k_m": Kind.Q4_K}[name]
    weight = torch.randn(32, 512, generator=torch.Generator().manual_seed(1))
    error = relative_error(decode(encode("w", weight, kind), kind).reshape(weight.shape).double(), weight.double())
    assert 1.5 * error < threshold_of(name).tensor < 8 * error


def test_what_the_user_allows_is_beside_the_threshold() -> None:
    plain, allowed = threshold_of("bfloat16"), threshold_of("bfloat16", 0.25)
    assert (plain.cost, allowed.cost) == (None, 0.25)
    assert (plain.gap, plain.divergence, plain.tensor) == (allowed.gap, allowed.divergence, allowed.tensor)
