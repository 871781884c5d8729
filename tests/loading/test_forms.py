"""Weights that are trained, quantised or rounded are decoded; what only answers keeps the blocks of a GGUF file."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.models.damaged_checkpoints import in_blocks, linears
from veneer.config import QuantSection
from veneer.enums import Products
from veneer.io.checkpoint import open_checkpoint
from veneer.loading.forms import TableForm, WeightForm, keeps_blocks, keeps_table_blocks
from veneer.loading.how import Loading
from veneer.loading.load import load_model
from veneer.native.library import kernels
from veneer.quant.blocks import BlockLinear
from veneer.quant.four_bit import QuantLinear


def test_gguf_weights_that_are_trained_quantised_or_rounded_are_decoded(tiny_model: Path, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(in_blocks(tiny_model, tmp_path, "q4_0"))
    native = kernels()
    ways = [(WeightForm.TRAINABLE, Products.EXACT), (WeightForm.QUANTIZED, Products.EXACT)]
    if native is not None and native.has_int8:
        ways.append((WeightForm.FROZEN, Products.INT8))
    for form, products in ways:
        found = load_model(checkpoint, Loading(form=form, products=products)).modules()
        assert not any(isinstance(module, BlockLinear) for module in found)
    partly = load_model(checkpoint, Loading(form=WeightForm.QUANTIZED, quant=QuantSection(skip_modules=("o_proj",))))
    kinds = {path.rpartition(".")[2]: type(module) for path, module in linears(partly).items()}
    assert kinds["q_proj"] is QuantLinear
    if native is not None:
        assert kinds["o_proj"] is BlockLinear


@pytest.mark.parametrize("reads", [True, False])
def test_embedding_and_head_stay_in_blocks_only_where_kernels_read_these_and_nothing_trains_them(
    reads: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("veneer.loading.forms.reads_blocks", lambda device: reads)
    assert keeps_table_blocks(TableForm.STORED, False, "cpu") is reads
    assert keeps_blocks(False, Products.EXACT, "cpu") is reads
    assert not keeps_table_blocks(TableForm.STORED, True, "cpu")
    assert not keeps_table_blocks(TableForm.DENSE, False, "cpu")
    assert not keeps_blocks(True, Products.EXACT, "cpu")
    assert not keeps_blocks(False, Products.INT8, "cpu")
