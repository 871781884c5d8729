from __future__ import annotations

from pathlib import Path

import pytest
import torch
from gguf.constants import GGMLQuantizationType as Kind
from gguf.quants import dequantize, quantize

from helpers.models.tiny_models import packed_logits
from veneer.exports.input_rounding import BY_TYPE, InputRounding, RoundedLinear, load_rounded, rounded, rounds
from veneer.io.checkpoint import open_checkpoint
from veneer.io.gguf.encode import Quant
from veneer.io.gguf.model import plan_kinds
from veneer.loading.how import Loading
from veneer.loading.load import load_model
from veneer.model.leaves import DenseLinear
from veneer.model.shape import Activation


def drawn(rows: int, columns: int, seed: int) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def test_blocks_of_32_are_those_of_q8_0() -> None:
    x = drawn(7, 96, seed=1)
    x[3, 32:64] = 0.0
    theirs = torch.from_numpy(dequantize(quantize(x.numpy(), Kind.Q8_0), Kind.Q8_0))
    # The package holds the scale in float16, which moves it by less than 2⁻¹¹ of itself.
    assert torch.allclose(rounded(x, InputRounding.BLOCKS_OF_32), theirs, rtol=2**-10, atol=1e-6)


def test_a_block_of_256_has_one_scale_and_whole_numbers() -> None:
    x = drawn(3, 512, seed=2)
    found = rounded(x, InputRounding.BLOCKS_OF_256).reshape(3, 2, 256)
    scale = x.reshape(3, 2, 256).abs().amax(-1, keepdim=True) / 127
    codes = found / scale
    assert torch.allclose(codes, codes.round(), atol=1e-3)
    assert float((found - x.reshape(3, 2, 256)).abs().max()) <= float(scale.max()) / 2 + 1e-6


def test_sixteen_bits_are_rounded_once_and_none_is_left_as_it_is() -> None:
    x = drawn(2, 32, seed=3)
    assert torch.equal(rounded(x, InputRounding.FLOAT16), x.half().float())
    assert torch.equal(rounded(x, InputRounding.BFLOAT16), x.bfloat16().float())
    assert rounded(x, InputRounding.NONE) is x


def test_a_layer_multiplies_rounded_inputs() -> None:
    inner = DenseLinear(torch.nn.Parameter(drawn(5, 64, seed=4), requires_grad=False))
    x = drawn(3, 64, seed=5)
    layer = RoundedLinear(inner, (InputRounding.FLOAT16, InputRounding.BLOCKS_OF_32))
    expected = inner(rounded(x.half().float(), InputRounding.BLOCKS_OF_32))
    assert torch.allclose(layer(x), expected, atol=1e-6)
    assert torch.allclose(layer.product(x), expected, atol=1e-6)


@pytest.mark.parametrize("quant", [Quant.F32, Quant.F16, Quant.Q8_0, Quant.Q4_K_M])
def test_a_model_is_moved_by_its_types_alone(quant: Quant, tiny_model: Path) -> None:
    checkpoint = open_checkpoint(tiny_model)
    kinds = set(plan_kinds(checkpoint.config, quant).values()) - {"F32"} or {"F32"}
    kind = sorted(kinds)[0]
    types = dict.fromkeys(checkpoint.names(), kind)
    tokens = [list(range(3, 40))]
    with torch.no_grad():
        exact = packed_logits(load_model(checkpoint, Loading(dtype=torch.float32)).eval(), tokens)
        moved = packed_logits(load_rounded(checkpoint, types, torch.device("cpu")), tokens)
    off = float((moved - exact).abs().max())
    assert (off == 0.0) == (BY_TYPE[kind] is InputRounding.NONE)
    assert off < 0.5


def test_a_gelu_rounds_whatever_the_types_are() -> None:
    assert not rounds({"a": "F32"}, Activation.SILU)
    assert rounds({"a": "F32"}, Activation.GELU_TANH)
    assert rounds({"a": "F32", "b": "Q6_K"}, Activation.SILU)
