"""Embedding and head in the blocks of a GGUF file give what decoded ones give, alone and under adapters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from gguf.quants import quantize
from torch.nn import functional

from helpers.adapters.peft_folders import rewrite_tensors, write_adapter
from helpers.gguf.blocks import weights
from helpers.gguf.files import tiny_model, write_model
from helpers.models.tiny_models import BACKENDS, documents, largest_difference, packed_logits, use_backend
from helpers.tensors import assert_same_tensors
from veneer.adapters.adapter_set import AdapterSet
from veneer.adapters.beside import load_beside
from veneer.adapters.load import load_adapter
from veneer.adapters.vocabulary import resize_embeddings
from veneer.enums import Init, Variant
from veneer.errors import AdapterError, ModelError
from veneer.io.checkpoint import open_checkpoint
from veneer.loading.forms import TableForm
from veneer.loading.how import Loading
from veneer.loading.load import load_model
from veneer.model.decoder import CausalLM
from veneer.model.leaves import DenseLinear, Embedding
from veneer.native.library import kernels
from veneer.native.stored import Format
from veneer.products import FEWEST_ROWS, LowRank
from veneer.quant import tables
from veneer.quant.blocks import LAYOUTS, decode_blocks
from veneer.quant.tables import BlockEmbedding, BlockHead, BlockTable

FORMATS = pytest.mark.parametrize("kind", LAYOUTS)
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
VOCAB, TEXTS = 40, documents([21, 8, 1], seed=8, vocab=40)
needs_kernels = pytest.mark.skipif(kernels() is None, reason="without compiled kernels all is decoded at loading")


def fresh() -> np.random.Generator:
    """Another source each time: what holds of a product holds of any numbers."""
    return np.random.default_rng()


def block_table(kind: Format, dtype: torch.dtype, rows: int = 301, columns: int = 96) -> BlockTable:
    values = weights(int(fresh().integers(1 << 30)), rows, columns)
    return BlockTable(torch.from_numpy(quantize(values, Kind[kind.name])), kind, columns, dtype)


@FORMATS
@DTYPES
@pytest.mark.parametrize("backend", BACKENDS)
def test_looked_up_rows_are_a_decoded_embeddings_to_the_bit(
    kind: Format, dtype: torch.dtype, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_backend(backend, monkeypatch)
    for columns in (32, 96, 1088):
        table = block_table(kind, dtype, columns=columns)
        decoded = decode_blocks(table.blocks, kind, dtype)
        for count in (0, 1, 2, 7, 64):
            tokens = torch.from_numpy(fresh().integers(0, 301, count))
            assert torch.equal(table.rows(tokens), decoded[tokens])
            for wanted in (dtype, torch.float32):
                expected = functional.embedding(tokens, decoded).to(wanted)
                assert torch.equal(BlockEmbedding(table)(tokens, wanted), expected)
        assert torch.equal(table.part(3, 70), decoded[3:70])
        with pytest.raises(IndexError):
            table.rows(torch.tensor([301]))


@FORMATS
@DTYPES
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("rows", [0, 1, 2, 7, FEWEST_ROWS, 50])
def test_scores_are_the_exact_products(
    rows: int, kind: Format, dtype: torch.dtype, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_backend(backend, monkeypatch)
    monkeypatch.setattr(tables, "PIECE_ROWS", 128)
    table = block_table(kind, dtype)
    head, exact = BlockHead(table), decode_blocks(table.blocks, kind, torch.float32).double()
    x = torch.from_numpy(fresh().standard_normal((rows, 96))).to(dtype)
    y = head(x)
    assert y.dtype is dtype
    assert y.shape == (rows, 301)
    # Half a step of the decoded weights, and of the result; torch may keep its sums in bfloat16 between its parts.
    rounded = {torch.float32: 2**-20, torch.float16: 2**-9, torch.bfloat16: 2**-6}[dtype]
    tiny = 2**-20 if dtype is torch.float16 else 0.0  # float16 has fewer digits below 2⁻¹⁴
    assert ((y.double() - x.double() @ exact.T).abs() <= rounded * (x.double().abs() @ exact.abs().T) + tiny).all()


@FORMATS
@needs_kernels
@pytest.mark.parametrize("rows", [0, 1, 5, 19, 70])
def test_the_kernels_scores_are_float32s(rows: int, kind: Format) -> None:
    table, native = block_table(kind, torch.bfloat16, rows=1003, columns=576), kernels()
    assert native is not None
    exact = decode_blocks(table.blocks, kind, torch.float32).double()
    x = torch.from_numpy(fresh().standard_normal((rows, 576))).float()
    stored = BlockHead(table).stored()
    assert stored is not None
    found = native.rows_product(x, stored.weight)
    assert ((found.double() - x.double() @ exact.T).abs() <= 2**-20 * (x.double().abs() @ exact.abs().T)).all()


@FORMATS
@DTYPES
@pytest.mark.parametrize("rows", [3, 40])
def test_an_update_is_added_and_gradients_reach_the_inputs(rows: int, kind: Format, dtype: torch.dtype) -> None:
    table = block_table(kind, dtype)
    head, dense = BlockHead(table), decode_blocks(table.blocks, kind, dtype).double()
    x, left, right = (torch.randn(*shape).to(dtype) for shape in ((rows, 96), (rows, 4), (301, 4)))
    y = head.product(x, LowRank(left, right, 0.5))
    expected = x.double() @ dense.T + 0.5 * left.double() @ right.double().T
    rounded = 2**-18 if dtype is torch.float32 else 2**-6
    size = x.double().abs() @ dense.abs().T + left.double().abs() @ right.double().abs().T
    assert ((y.double() - expected).abs() <= rounded * size).all()
    x.requires_grad_()
    head(x).sum().backward()
    assert x.grad is not None
    columns = dense.abs().sum(0) + dense.abs().amax()
    assert ((x.grad.double() - dense.sum(0)).abs() <= rounded * columns).all()
    assert torch.equal(head.dequantize(torch.float32).double(), dense)


def test_many_rows_are_multiplied_by_pieces_as_by_the_whole() -> None:
    table = block_table(Format.Q8_0, torch.bfloat16, rows=2 * tables.PIECE_ROWS + 48, columns=64)
    dense = DenseLinear(torch.nn.Parameter(decode_blocks(table.blocks, table.kind, table.dtype), requires_grad=False))
    x = torch.randn(33, 64).bfloat16()
    size = x.double().abs() @ dense.weight.double().abs().T
    assert ((BlockHead(table)(x).double() - dense(x).double()).abs() <= 2**-7 * size).all()


def test_a_tied_head_has_the_embeddings_blocks() -> None:
    embedding = BlockEmbedding(block_table(Format.Q4_1, torch.float32))
    head = embedding.tied_head()
    assert head.table is embedding.table
    assert (head.out_features, head.in_features, head.bias) == (301, 96, None)
    assert "Q4_1" in repr(head)
    with pytest.raises(ModelError, match="blocks are"):
        BlockTable(torch.zeros(4, 40, dtype=torch.uint8), Format.Q4_0, 64, torch.float32)


def both(folder: Path, kind: Kind, *, tied: bool, dtype: torch.dtype) -> tuple[CausalLM, CausalLM]:
    """One GGUF file, loaded with embedding and head in its blocks, and with both decoded."""
    file = folder / f"{kind.name}-{tied}.gguf"
    model = tiny_model()
    if tied:
        model.config.tie_word_embeddings = True
        model.lm_head.weight = model.model.embed_tokens.weight
    if not file.exists():
        write_model(file, model, kind)
    kept, decoded = (load_model(open_checkpoint(file), Loading(dtype=dtype, tables=form)) for form in TABLE_FORMS)
    for one in (kept, decoded):
        one.requires_grad_(False).eval()
    return kept, decoded


TABLE_FORMS = (TableForm.STORED, TableForm.DENSE)


@needs_kernels
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", [Kind.Q4_0, Kind.Q4_1, Kind.Q8_0])
def test_a_model_with_both_in_blocks_computes_what_a_decoded_one_does(
    kind: Kind, dtype: torch.dtype, tied: bool, tmp_path: Path
) -> None:
    kept, decoded = both(tmp_path, kind, tied=tied, dtype=dtype)
    assert isinstance(kept.embedding, BlockEmbedding)
    assert isinstance(kept.lm_head, BlockHead)
    assert (kept.lm_head.table is kept.embedding.table) is tied
    assert kept.compiled_step(3) is not None
    tokens = torch.tensor(TEXTS[0])
    assert torch.equal(kept.embedding(tokens, dtype), decoded.embedding(tokens, dtype))
    ours, theirs = packed_logits(kept, TEXTS), packed_logits(decoded, TEXTS)
    if dtype is torch.float32:
        assert torch.equal(ours, theirs), "the same kernel multiplies blocks and decoded weights"
    assert largest_difference(ours, theirs) <= 2**-6 * float(theirs.abs().max())


ADAPTERS: dict[str, dict[str, Any]] = {
    "embedding": {"target_modules": ("embed_tokens", "q_proj")},
    "DoRA": {"target_modules": ("embed_tokens", "lm_head"), "variant": Variant.DORA},
    "head": {"target_modules": ("lm_head", "v_proj")},
    "PiSSA": {"target_modules": ("lm_head",), "init": Init.PISSA},
    "saved": {"target_modules": ("q_proj",), "modules_to_save": ("lm_head", "embed_tokens")},
    "tokens": {"target_modules": ("q_proj",), "trainable_tokens": {"model.embed_tokens": (3, 7)}},
    "tokens of both": {
        "target_modules": ("q_proj",), "trainable_tokens": {"model.embed_tokens": (3, 7), "lm_head": (1, 7)},
    },
}  # fmt: skip


@needs_kernels
@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("tied", [False, True])
def test_adapters_on_them_compute_what_they_do_on_decoded_ones(adapter: str, tied: bool, tmp_path: Path) -> None:
    if tied and adapter == "tokens of both":
        pytest.skip("a tied model has one set of rows")
    kept, decoded = both(tmp_path, Kind.Q8_0, tied=tied, dtype=torch.float32)
    folder = tmp_path / "adapter"
    folder.mkdir()
    write_adapter(folder, load_model(open_checkpoint(tmp_path / f"Q8_0-{tied}.gguf")), **ADAPTERS[adapter])
    found = [load_adapter(model, folder) for model in (kept, decoded)]
    assert torch.equal(packed_logits(kept, TEXTS), packed_logits(decoded, TEXTS))
    merged = [dict(one.merged()) for one in found]
    assert_same_tensors(merged[0], merged[1])


@needs_kernels
def test_adapters_beside_the_base_share_its_blocks(tmp_path: Path) -> None:
    kept, decoded = both(tmp_path, Kind.Q4_1, tied=True, dtype=torch.bfloat16)
    folder = tmp_path / "adapter"
    folder.mkdir()
    write_adapter(folder, load_model(open_checkpoint(tmp_path / "Q4_1-True.gguf")), **ADAPTERS["embedding"])
    twin, _ = load_beside(kept, folder)
    assert twin.embedding.base.table is kept.embedding.table  # type: ignore[attr-defined, union-attr]
    tokens, other = torch.tensor(TEXTS[0]), load_beside(decoded, folder)[0]
    assert torch.equal(twin.embedding(tokens, torch.bfloat16), other.embedding(tokens, torch.bfloat16))
    ours, theirs = (AdapterSet(model) for model in (kept, decoded))
    for one in (ours, theirs):
        one.load("a", folder)
    with ours.routed(["a"]) as route, theirs.routed(["a"]) as same:
        for one in (route, same):
            one.lay(["a", None], [10, len(tokens) - 10])
        assert torch.equal(kept.embedding(tokens, torch.bfloat16), decoded.embedding(tokens, torch.bfloat16))


@needs_kernels
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_vocabulary_that_grows_is_decoded_and_has_the_same_rows(
    dtype: torch.dtype, tied: bool, tmp_path: Path
) -> None:
    kept, decoded = both(tmp_path, Kind.Q4_0, tied=tied, dtype=dtype)
    for model in (kept, decoded):
        resize_embeddings(model, VOCAB + 3)
    assert isinstance(kept.embedding, Embedding)
    assert isinstance(kept.lm_head, DenseLinear)
    assert torch.equal(kept.embedding.weight, decoded.embedding.get_parameter("weight"))
    assert torch.equal(kept.lm_head.weight, decoded.lm_head.get_parameter("weight"))
    assert (kept.lm_head.weight is kept.embedding.weight) is tied


@needs_kernels
def test_copies_of_another_bases_embedding_are_refused(tmp_path: Path) -> None:
    kept, decoded = both(tmp_path, Kind.Q8_0, tied=False, dtype=torch.float32)
    folder = tmp_path / "adapter"
    folder.mkdir()
    write_adapter(folder, load_model(open_checkpoint(tmp_path / "Q8_0-False.gguf")), **ADAPTERS["embedding"])
    name = "base_model.model.model.embed_tokens.base_layer.weight"
    weight = decoded.embedding.get_parameter("weight").detach().clone()
    rewrite_tensors(folder, lambda tensors: tensors | {name: weight})
    load_beside(kept, folder)
    rewrite_tensors(folder, lambda tensors: tensors | {name: weight + 1.0})
    with pytest.raises(AdapterError, match="its values differ from the model's"):
        load_adapter(kept, folder)
