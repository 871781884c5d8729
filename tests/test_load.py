"""Loading reads each tensor once, holds it as asked, and refuses what does not fit with every reason at once."""

from __future__ import annotations

import json
import shutil
import sys
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest
import tokenizers
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tiny import chat_tokenizer, run_config
from tiny_models import SHAPES, documents, largest_difference, packed_logits, saved, their_logits, tiny_llama
from veneer.assistant import make_assistant, turns
from veneer.config import QuantSection
from veneer.enums import Products
from veneer.errors import ConfigError, ModelError
from veneer.generation.sampling import Sampling
from veneer.io.checkpoint import Checkpoint, open_checkpoint
from veneer.io.gguf.encode import Quant
from veneer.io.gguf.model import needed, write_model
from veneer.io.gguf.reader import GgufCheckpoint
from veneer.io.prequantised import StoredFormat, StoredWeight
from veneer.io.protocol import BlockTensor
from veneer.io.tokenizer import Tokenizer, finish, from_directory
from veneer.large_pages import LARGE_PAGE
from veneer.load import WeightForm, check_vocabulary, expected_tensors, load_model, narrowed
from veneer.model.decoder import CausalLM, DenseLinear
from veneer.model.spec import spec_from_hf
from veneer.native.library import kernels
from veneer.quant.blocks import BlockLinear
from veneer.quant.linear import QuantLinear
from veneer.quant.packed import PackedLinear
from veneer.quant.schemes import pack
from veneer.training.run import train


@dataclass
class Watched:
    """A checkpoint that notes what is read, and how many bytes of it are alive at each read."""

    inner: Checkpoint
    reads: list[str] = field(default_factory=list)
    alive_bytes: list[int] = field(default_factory=list)
    _alive: list[weakref.ref[Tensor]] = field(default_factory=list)

    @property
    def source(self) -> str:
        return self.inner.source

    @property
    def config(self) -> Mapping[str, Any]:
        return self.inner.config

    @property
    def stored(self) -> Mapping[str, StoredFormat]:
        return self.inner.stored

    @property
    def blocks(self) -> Mapping[str, BlockTensor]:
        return self.inner.blocks

    def read_stored(self, name: str) -> StoredWeight:
        return self.inner.read_stored(name)

    @property
    def generation_config(self) -> Mapping[str, Any]:
        return self.inner.generation_config

    def names(self) -> list[str]:
        return self.inner.names()

    def shape(self, name: str) -> tuple[int, ...]:
        return self.inner.shape(name)

    def read(self, name: str, dtype: torch.dtype) -> Tensor:
        tensor = self.inner.read(name, dtype)
        self.reads.append(name)
        self._alive.append(weakref.ref(tensor))
        living = [reference() for reference in self._alive]
        self.alive_bytes.append(sum(one.nbytes for one in living if one is not None and one.ndim == 2))
        return tensor

    def tokenizer(self) -> Tokenizer:
        return self.inner.tokenizer()

    def files(self) -> list[Path]:
        return self.inner.files()


def rewrite(path: Path, **changes: Any) -> Checkpoint:
    """The model directory `path` with other settings in its config.json."""
    config = json.loads((path / "config.json").read_text()) | changes
    (path / "config.json").write_text(json.dumps(config))
    return open_checkpoint(path)


def retensor(path: Path, changes: dict[str, Tensor | None]) -> Checkpoint:
    """The model directory `path` with tensors put in or (None) taken out."""
    tensors: dict[str, Tensor | None] = {**load_file(path / "model.safetensors"), **changes}
    save_file({name: t for name, t in tensors.items() if t is not None}, path / "model.safetensors")
    return open_checkpoint(path)


def linears(model: CausalLM) -> dict[str, torch.nn.Module]:
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, DenseLinear | PackedLinear) and name != "lm_head"
    }


@pytest.mark.parametrize("form", WeightForm)
@pytest.mark.parametrize("changes", [{}, {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True}])
def test_every_tensor_is_read_once_in_order(changes: dict[str, Any], form: WeightForm, tmp_path: Path) -> None:
    watched = Watched(saved(tiny_llama(changes=changes), tmp_path))
    progress: list[str] = []
    load_model(watched, form=form, progress=progress.append)
    expected = list(expected_tensors(spec_from_hf(watched.config)))
    assert watched.reads == progress == expected
    assert sorted(expected) == watched.names()


def test_frozen_weights_are_in_the_compute_dtype_and_still(tmp_path: Path) -> None:
    theirs = tiny_llama(changes={"attention_bias": True})
    checkpoint = saved(theirs, tmp_path)
    for dtype in (torch.float32, torch.bfloat16):
        model = load_model(checkpoint, dtype=dtype)
        assert model.dtype == dtype
        state = theirs.state_dict()
        for name, parameter in model.named_parameters():
            assert not parameter.requires_grad
            assert torch.equal(parameter, state[name].to(dtype))
        assert {name for name, _ in model.named_parameters()} == set(state)


def test_trainable_weights_are_float32_whatever_is_computed_in(tmp_path: Path) -> None:
    theirs = tiny_llama()
    model = load_model(saved(theirs, tmp_path), form=WeightForm.TRAINABLE, dtype=torch.bfloat16)
    assert model.dtype == torch.bfloat16
    assert all(p.dtype == torch.float32 and p.requires_grad for p in model.parameters())
    assert all(torch.equal(p, theirs.state_dict()[name]) for name, p in model.named_parameters())
    assert packed_logits(model, documents([4])).dtype == torch.bfloat16


SCHEMES: dict[str, dict[str, Any]] = {
    "default": {},
    "plain": {"block": 32, "double_quant": False},
    "fp4": {"scheme": "fp4", "block": 128},
    "int8": {"scheme": "int8"},
    "skipping": {"skip_modules": ("down_proj", "model.layers.1.self_attn.q_proj", "lm_head")},
}


@pytest.mark.parametrize("settings", SCHEMES.values(), ids=SCHEMES)
def test_quantised_layers_are_those_of_the_weight_and_nothing_else_is(settings: dict[str, Any], tmp_path: Path) -> None:
    theirs = tiny_llama(changes={"attention_bias": True})
    checkpoint = saved(theirs, tmp_path)
    quant = QuantSection.model_validate(settings)
    model = load_model(checkpoint, form=WeightForm.QUANTIZED, dtype=torch.bfloat16, quant=quant if settings else None)
    assert len(linears(model)) == 2 * 7
    dense = {name for name, layer in linears(model).items() if isinstance(layer, DenseLinear)}
    kept = ("down_proj", "model.layers.1.self_attn.q_proj") if quant.skip_modules else ()
    assert dense == {name for name in linears(model) if name.endswith(kept) and kept}
    for name, layer in linears(model).items():
        weight = checkpoint.read(f"{name}.weight", torch.bfloat16)
        reference = pack(weight, None, quant)
        expected = weight.float() if name in dense else reference.dequantize(torch.float32)
        assert name in dense or type(layer) is type(reference)
        assert torch.equal(layer.dequantize(torch.float32), expected)  # type: ignore[operator]
        bias = layer.bias
        assert (bias is None) == (".mlp." in name)
        assert bias is None or torch.equal(bias, theirs.state_dict()[f"{name}.bias"].bfloat16())  # type: ignore[arg-type]
    rest = {name: p for name, p in model.named_parameters() if name.rpartition(".")[0] not in dense}
    assert set(rest) == {name for name in theirs.state_dict() if "norm" in name or "embed" in name or "head" in name}
    assert all(p.dtype == torch.bfloat16 and not p.requires_grad for p in rest.values())


def test_layers_to_skip_that_there_are_not_are_all_named(tmp_path: Path) -> None:
    checkpoint = Watched(saved(tiny_llama(), tmp_path))
    quant = QuantSection(skip_modules=("dwn_proj", "v_proj", "layers.7"))
    with pytest.raises(ConfigError, match=r"(?s)'dwn_proj' \(did you mean 'down_proj'\?\).*'layers.7'") as caught:
        load_model(checkpoint, form=WeightForm.QUANTIZED, quant=quant)
    assert "'v_proj'" not in str(caught.value)
    assert checkpoint.reads == []


def test_a_quantised_model_is_the_model_of_its_decoded_weights(tmp_path: Path) -> None:
    theirs = tiny_llama()
    model = load_model(saved(theirs, tmp_path), form=WeightForm.QUANTIZED, dtype=torch.float32)
    for name, layer in linears(model).items():
        assert isinstance(layer, QuantLinear)
        theirs.get_submodule(name).weight.data = layer.dequantize(torch.float32)  # type: ignore[union-attr]
    texts = documents([9, 14])
    with torch.no_grad():
        assert largest_difference(packed_logits(model, texts), their_logits(theirs, texts)) < 1e-4


def test_a_tied_head_is_the_embedding(tmp_path: Path) -> None:
    model = load_model(saved(tiny_llama(changes={"tie_word_embeddings": True}), tmp_path), form=WeightForm.TRAINABLE)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert "lm_head.weight" not in dict(model.named_parameters())


def test_a_head_beside_a_tied_embedding_is_not_read(tmp_path: Path) -> None:
    saved(tiny_llama(changes={"tie_word_embeddings": True}), tmp_path)
    checkpoint = Watched(retensor(tmp_path, {"lm_head.weight": torch.zeros(3, 3)}))
    load_model(checkpoint)
    assert "lm_head.weight" not in checkpoint.reads


def test_quantising_never_holds_two_full_matrices_of_the_layers(tmp_path: Path) -> None:
    """What is alive at each read: embedding (and head), which stay, and the one matrix that is being quantised."""
    watched = Watched(saved(tiny_llama(changes={"num_hidden_layers": 6, "tie_word_embeddings": True}), tmp_path))
    load_model(watched, form=WeightForm.QUANTIZED, dtype=torch.float32)
    embedding = SHAPES["vocab_size"] * SHAPES["hidden_size"] * 4
    largest = SHAPES["intermediate_size"] * SHAPES["hidden_size"] * 4
    assert max(watched.alive_bytes) <= embedding + largest
    whole = sum(torch.Size(watched.shape(name)).numel() * 4 for name in watched.names())
    assert max(watched.alive_bytes) < whole / 4


@pytest.mark.skipif(sys.platform != "linux", reason="large pages are asked for on Linux alone")
@pytest.mark.parametrize("form", [WeightForm.FROZEN, WeightForm.QUANTIZED])
def test_frozen_layers_stand_in_one_piece_of_memory(form: WeightForm, tmp_path: Path) -> None:
    checkpoint = saved(tiny_llama(changes={"hidden_size": 128, "intermediate_size": 192}), tmp_path)
    model = load_model(checkpoint, form=form, dtype=torch.bfloat16)
    layers = linears(model).values()
    places = sorted((layer.codes if isinstance(layer, QuantLinear) else layer.weight).data_ptr() for layer in layers)  # type: ignore[union-attr]
    size = sum(tensor.nbytes for layer in layers for tensor in (*layer.buffers(), *layer.parameters()))
    assert places[0] % LARGE_PAGE == 0
    assert places[-1] - places[0] < size


def test_missing_and_misshaped_tensors_are_all_named_and_nothing_is_read(tmp_path: Path) -> None:
    saved(tiny_llama(), tmp_path)
    changes = {
        "model.layers.1.mlp.up_proj.weight": torch.zeros(112, 63),
        "model.norm.weight": None,
        "model.layers.0.self_attn.q_proj.weight": None,
        "lm_head.weight": torch.zeros(95, 64),
    }
    checkpoint = Watched(retensor(tmp_path, changes))
    with pytest.raises(ModelError) as caught:
        load_model(checkpoint)
    message = str(caught.value)
    assert str(tmp_path) in message
    assert "model.norm.weight: missing" in message
    assert "model.layers.0.self_attn.q_proj.weight: missing" in message
    assert "model.layers.1.mlp.up_proj.weight: shape [112, 63], config.json says [112, 64]" in message
    assert "lm_head.weight: shape [95, 64], config.json says [96, 64]" in message
    assert message.count("  - ") == 4
    assert checkpoint.reads == []


def test_a_configuration_of_another_shape_names_every_tensor(tmp_path: Path) -> None:
    saved(tiny_llama(), tmp_path)
    with pytest.raises(ModelError, match=r"k_proj.weight: shape \[32, 64\], config.json says \[64, 64\]") as caught:
        load_model(rewrite(tmp_path, num_key_value_heads=4))
    assert str(caught.value).count("  - ") == 4


def test_a_bias_that_the_configuration_promises_is_missed(tmp_path: Path) -> None:
    saved(tiny_llama(), tmp_path)
    with pytest.raises(ModelError, match=r"layers.1.mlp.down_proj.bias: missing"):
        load_model(rewrite(tmp_path, mlp_bias=True))


def test_an_unknown_architecture_is_refused_by_name(tmp_path: Path) -> None:
    saved(tiny_llama(), tmp_path)
    with pytest.raises(ModelError, match=r"'gpt_neox'.*supported: .*llama"):
        load_model(rewrite(tmp_path, model_type="gpt_neox"))


def test_a_weight_that_cannot_be_quantised_is_refused(tmp_path: Path) -> None:
    saved(tiny_llama(), tmp_path)
    broken = torch.zeros(64, 64)
    broken[3, 5] = float("nan")
    checkpoint = retensor(tmp_path, {"model.layers.1.self_attn.o_proj.weight": broken})
    with pytest.raises(ModelError, match=r"1 of the 4,096 values of model\.layers\.1\.self_attn\.o_proj\.weight"):
        load_model(checkpoint, form=WeightForm.QUANTIZED)


def test_a_tokenizer_with_more_ids_than_rows_is_refused_with_both_sizes() -> None:
    tokenizer = finish(chat_tokenizer(), {}, None, {})
    last = tokenizer.vocab_size - 1
    check_vocabulary(tokenizer, tokenizer.vocab_size, "m")
    with pytest.raises(ModelError, match=rf"of m has ids up to {last}, .* has {last} rows"):
        check_vocabulary(tokenizer, last, "m")


def test_a_run_and_an_assistant_refuse_such_a_tokenizer(tiny_model: Path, tiny_data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    rows = open_checkpoint(folder).config["vocab_size"]
    backend.add_tokens([f"<|new {number}|>" for number in range(rows - backend.get_vocab_size() + 1)])
    backend.save(str(folder / "tokenizer.json"))
    with pytest.raises(ModelError, match=rf"has ids up to {rows}, .* {rows} rows"):
        train(run_config(folder, tiny_data, tmp_path / "run"))
    with pytest.raises(ModelError, match=rf"has ids up to {rows}, .* {rows} rows"):
        make_assistant(load_model(open_checkpoint(folder)), open_checkpoint(folder), None)


LINEAR = "model.layers.0.mlp.up_proj"


def sixteen_bits(folder: Path, dtype: torch.dtype) -> Path:
    """The tiny chat model with 16 bits a weight."""
    tensors = {name: tensor.to(dtype) for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["dtype"] = str(dtype).removeprefix("torch.")
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_frozen_base_in_float32_keeps_the_16_bits_of_its_files(
    dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = saved(tiny_llama().to(dtype), tmp_path)
    monkeypatch.setattr("veneer.load.reads_stored", lambda *_: True)
    model = load_model(checkpoint, dtype=torch.float32)
    kept = {path: m.weight.dtype for path, m in model.named_modules() if isinstance(m, DenseLinear)}
    assert set(kept.values()) == {dtype, torch.float32}
    assert {path for path, held in kept.items() if held is torch.float32} == {"lm_head"}
    assert torch.equal(model.get_submodule(LINEAR).weight.float(), checkpoint.read(f"{LINEAR}.weight", torch.float32))
    trained = load_model(checkpoint, form=WeightForm.TRAINABLE, dtype=torch.float32)
    assert {parameter.dtype for parameter in trained.parameters()} == {torch.float32}
    monkeypatch.setattr("veneer.load.reads_stored", lambda *_: False)
    wide = load_model(checkpoint, dtype=torch.float32)
    assert {parameter.dtype for parameter in wide.parameters()} == {torch.float32}


def test_a_weight_that_16_bits_do_not_hold_stays_as_it_is() -> None:
    torch.manual_seed(3)
    weight = torch.randn(8, 8)
    assert narrowed(weight) is weight
    for dtype in (torch.bfloat16, torch.float16):
        exact = weight.to(dtype).float()
        exact[0, 0], exact[1, 1] = -0.0, 2.0**-24  # a number that float16 has below its normal ones
        held = narrowed(exact)
        assert held.dtype == dtype
        assert torch.equal(held.float().view(torch.int32), exact.view(torch.int32))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_base_in_16_bits_trains_and_answers_as_a_widened_one(
    dtype: torch.dtype, tiny_model: Path, tiny_data: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    if kernels() is None:
        pytest.skip("this machine has no compiled kernels")
    folder = sixteen_bits(shutil.copytree(tiny_model, tmp_path / "model"), dtype)
    settings = ("method=lora", "train.steps=4", "lora.dropout=0.1", "compute.dtype=float32")
    with monkeypatch.context() as patch:
        patch.setattr("veneer.load.reads_stored", lambda *_: False)
        wide = train(run_config(folder, tiny_data, tmp_path / "wide", *settings))
    kept = train(run_config(folder, tiny_data, tmp_path / "kept", *settings))
    assert kept.model.get_parameter(f"{LINEAR}.base.weight").dtype == dtype
    assert wide.model.get_parameter(f"{LINEAR}.base.weight").dtype == torch.float32
    name = "adapter_model.safetensors"
    assert (tmp_path / "kept" / name).read_bytes() == (tmp_path / "wide" / name).read_bytes()
    # One token a pass is made by other kernels than a text.
    answers = [
        make_assistant(run.model, open_checkpoint(folder), run.trainable.adapter).answers(  # type: ignore[attr-defined]
            [turns(None, "What is the parcel number?"), turns(None, "late")], Sampling(max_new_tokens=12)
        )
        for run in (kept, wide)
    ]
    assert answers[0] == answers[1]


def in_blocks(path: Path, folder: Path, kind: str) -> Path:
    """The GGUF file of a model directory, its matrices in one format; the tokenizer goes with it."""
    checkpoint, file = open_checkpoint(path), folder / f"{kind}.gguf"
    tensors = ((name, checkpoint.read(name, torch.float32)) for name in needed(checkpoint.config))
    write_model(file, checkpoint.config, from_directory(path), tensors, Quant(kind))
    return file


@pytest.mark.parametrize("kind", ["q4_0", "q8_0"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_gguf_base_takes_the_bytes_of_its_file(
    kind: str, dtype: torch.dtype, tiny_model: Path, tmp_path: Path
) -> None:
    if kernels() is None:
        pytest.skip("this machine has no compiled kernels")
    checkpoint = open_checkpoint(in_blocks(tiny_model, tmp_path, kind))
    assert isinstance(checkpoint, GgufCheckpoint)
    frozen = load_model(checkpoint, dtype=dtype)
    held = linears(frozen)
    assert all(isinstance(module, BlockLinear) for module in held.values())
    tensors = checkpoint.header.tensors
    own = sum(info.nbytes for name, info in tensors.items() if name.startswith("blk.") and len(info.shape) > 1)
    assert sum(module.nbytes for module in held.values() if isinstance(module, BlockLinear)) == own
    for path, module in held.items():
        assert torch.equal(cast(BlockLinear, module).dequantize(dtype), checkpoint.read(f"{path}.weight", dtype))


def test_gguf_weights_that_are_trained_quantised_or_rounded_are_decoded(tiny_model: Path, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(in_blocks(tiny_model, tmp_path, "q4_0"))
    native = kernels()
    ways = [(WeightForm.TRAINABLE, Products.EXACT), (WeightForm.QUANTIZED, Products.EXACT)]
    if native is not None and native.has_int8:
        ways.append((WeightForm.FROZEN, Products.INT8))
    for form, products in ways:
        found = load_model(checkpoint, form=form, products=products).modules()
        assert not any(isinstance(module, BlockLinear) for module in found)
    partly = load_model(checkpoint, form=WeightForm.QUANTIZED, quant=QuantSection(skip_modules=("o_proj",)))
    kinds = {path.rpartition(".")[2]: type(module) for path, module in linears(partly).items()}
    assert kinds["q_proj"] is QuantLinear
    if native is not None:
        assert kinds["o_proj"] is BlockLinear


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", ["q4_0", "q8_0"])
def test_a_gguf_base_in_blocks_trains_and_answers_as_a_decoded_one(
    kind: str, dtype: str, tiny_model: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kernels() is None:
        pytest.skip("this machine has no compiled kernels")
    file = in_blocks(tiny_model, tmp_path, kind)
    settings = ("method=lora", "train.steps=4", "lora.dropout=0.1", f"compute.dtype={dtype}")
    with monkeypatch.context() as patch:
        patch.setattr("veneer.load.reads_blocks", lambda *_: False)
        decoded = train(run_config(file, tiny_data, tmp_path / "decoded", *settings))
    kept = train(run_config(file, tiny_data, tmp_path / "kept", *settings))
    assert isinstance(kept.model.get_submodule(f"{LINEAR}.base"), BlockLinear)
    assert isinstance(decoded.model.get_submodule(f"{LINEAR}.base"), DenseLinear)
    name = "adapter_model.safetensors"
    assert (tmp_path / "kept" / name).read_bytes() == (tmp_path / "decoded" / name).read_bytes()
    if dtype == "bfloat16":
        return  # answers are computed with the weights before they are rounded
    asked = [turns(None, "What is the parcel number?"), turns(None, "late")]
    answers = [
        make_assistant(run.model, open_checkpoint(file), run.trainable.adapter).answers(  # type: ignore[attr-defined]
            asked, Sampling(max_new_tokens=12)
        )
        for run in (kept, decoded)
    ]
    assert answers[0] == answers[1]
