"""Embedding and head of a GGUF file are counted as they are held: in blocks where the model only answers. Packed
weights that are decoded are counted apart."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
import torch
from gguf import GGMLQuantizationType

from helpers.gguf.files import tiny_model, write_model
from helpers.training.plan_setups import setup
from veneer.backends.describe import describe_model
from veneer.enums import Backend, Method, Products
from veneer.io.checkpoint import open_checkpoint, read_model_config
from veneer.loading.forms import TableForm, WeightForm
from veneer.loading.how import Loading
from veneer.loading.load import load_model
from veneer.native.library import kernels
from veneer.native.stored import Format
from veneer.planning.base import base_bytes, decoded_bytes
from veneer.planning.setup import Setup
from veneer.quant.packed import PackedLinear
from veneer.quant.tables import BlockEmbedding, BlockHead
from veneer.tables import HoldsTable

FORMS = {Method.LORA: WeightForm.FROZEN, Method.QLORA: WeightForm.QUANTIZED}
VOCAB, DIM = 49152, 576


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q8_0", "F16"])
@pytest.mark.parametrize(("method", "form"), product(FORMS, TableForm))
def test_the_base_takes_what_its_tensors_take(method: Method, form: TableForm, kind: str, tmp_path: Path) -> None:
    file = tmp_path / "m.gguf"
    write_model(file, tiny_model(), GGMLQuantizationType[kind])
    model = load_model(open_checkpoint(file), Loading(form=FORMS[method], tables=form))
    described = describe_model(read_model_config(file), Backend.AUTO)
    packed = sum(module.nbytes for module in model.modules() if isinstance(module, PackedLinear))
    blocks = {id(one.table): one.table.blocks for one in model.modules() if isinstance(one, BlockEmbedding | BlockHead)}
    kept = kernels() is not None and form is TableForm.STORED and kind != "F16"
    assert len(blocks) == (2 if kept else 0)
    assert all(isinstance(one, HoldsTable) for one in (model.embedding, model.lm_head))
    parameters = sum(one.nbytes for one in model.parameters()) + sum(one.nbytes for one in blocks.values())
    of = Setup(
        spec=model.spec, method=method, dtype=torch.bfloat16, blocks=described.blocks,
        tables=described.tables if form is TableForm.STORED else {}, file_bytes=2,
    )  # fmt: skip
    assert base_bytes(of) == parameters + packed


@pytest.mark.skipif(kernels() is None, reason="without compiled kernels all is decoded at loading")
def test_a_tied_head_is_counted_once_and_what_is_trained_or_on_a_gpu_is_not_in_blocks() -> None:
    tables = {"model.embed_tokens": Format.Q8_0}
    saved = VOCAB * DIM * 2 - VOCAB * DIM // 32 * 34
    assert base_bytes(setup()) - base_bytes(setup(tables=tables)) == saved
    for other in ({"device": "cuda"}, {"method": Method.FULL}):
        assert base_bytes(setup(**other)) == base_bytes(setup(tables=tables, **other))


def test_decoded_weights_are_those_of_packed_layers() -> None:
    dense, quantised = setup(), setup(method=Method.QLORA)
    linears = [linear for layer in dense.linears for linear in layer.values()]
    assert decoded_bytes(dense) == 0
    assert decoded_bytes(quantised) == 2 * sum(linear.weights for linear in linears)
    assert decoded_bytes(replace(quantised, products=Products.INT8)) == 0
    in_blocks = {linears[0].path: Format.Q4_0}
    assert decoded_bytes(replace(dense, device="cpu", blocks=in_blocks)) == 2 * linears[0].weights
    assert decoded_bytes(replace(dense, device="cuda", blocks=in_blocks)) == 0
