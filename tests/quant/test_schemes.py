from __future__ import annotations

import pytest
import torch

from veneer.config import QuantSection
from veneer.enums import Scheme
from veneer.errors import ConfigError, ModelError
from veneer.quant.codes import CodeBook
from veneer.quant.four_bit import QuantConfig, QuantLinear
from veneer.quant.rowwise import RowwiseLinear
from veneer.quant.schemes import HEAD, pack, packed_bytes, skipped

PATHS = [
    f"model.layers.{n}.{leaf}" for n in range(2) for leaf in ("self_attn.q_proj", "mlp.up_proj", "mlp.gate_up_proj")
]
SECTIONS = [
    QuantSection(scheme=Scheme(scheme), block=block, double_quant=double)
    for scheme in ("nf4", "fp4")
    for block in (64, 128)
    for double in (False, True)
] + [QuantSection(scheme=Scheme.INT8)]


@pytest.mark.parametrize("quant", SECTIONS, ids=str)
@pytest.mark.parametrize("shape", [(48, 80), (3, 7), (65, 1), (1, 1024)])
def test_a_packed_layer_takes_what_is_said_before_it_is_made(quant: QuantSection, shape: tuple[int, int]) -> None:
    weight, bias = torch.randn(shape), torch.randn(shape[0])
    layer = pack(weight, bias, quant)
    assert layer.nbytes == packed_bytes(*shape, quant) + bias.nbytes
    assert layer.bias is not None
    assert torch.equal(layer.bias, bias)


@pytest.mark.parametrize("quant", SECTIONS, ids=str)
def test_the_layer_is_of_the_scheme_that_is_asked_for(quant: QuantSection) -> None:
    weight = torch.randn(48, 80)
    before = weight.clone()
    layer = pack(weight, None, quant)
    if quant.scheme is Scheme.INT8:
        expected: torch.nn.Module = RowwiseLinear.from_weight(weight)
    else:
        book = CodeBook(quant.scheme.value)
        config = QuantConfig(block=quant.block, double_quant=quant.double_quant, codebook=book)
        expected = QuantLinear.from_weight(weight, config=config)
    assert type(layer) is type(expected)
    assert torch.equal(layer.dequantize(torch.float32), expected.dequantize(torch.float32))  # type: ignore[operator]
    assert torch.equal(weight, before)


def test_a_name_is_a_whole_path_or_the_end_of_one() -> None:
    assert skipped(PATHS, ()) == frozenset()
    assert skipped(PATHS, ("up_proj",)) == {PATHS[1], PATHS[4]}, "gate_up_proj is another layer"
    assert skipped(PATHS, ("mlp.up_proj", PATHS[0])) == {PATHS[0], PATHS[1], PATHS[4]}
    assert skipped(PATHS, (HEAD,)) == frozenset(), "the head is never quantised"


def test_names_of_no_layer_are_all_named_with_what_there_is() -> None:
    with pytest.raises(ConfigError) as caught:
        skipped(PATHS, ("up_proj", "q_porj", "layers.7"))
    message = str(caught.value)
    assert "'q_porj' (did you mean 'q_proj'?)" in message
    assert "'layers.7'" in message
    assert "It has: gate_up_proj, q_proj, up_proj" in message


def test_a_weight_that_cannot_be_quantised_is_named() -> None:
    with pytest.raises(ModelError, match=r"mlp\.up_proj\.weight: cannot quantise: 1 of 4 weights .*use scheme nf4"):
        pack(torch.tensor([[1.0, 1e5], [2.0, 3.0]]), None, SECTIONS[-1], "mlp.up_proj.weight")
