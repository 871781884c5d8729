"""The tensors of a file are those of the Hugging Face model."""

from __future__ import annotations

import struct
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from gguf.quants import dequantize
from transformers import LlamaConfig, LlamaForCausalLM

from helpers.gguf.files import header, text, tiny_model, unpermute, write_model
from helpers.support import smollm2_gguf
from veneer.errors import ModelError
from veneer.io.gguf.reader import GgufCheckpoint, decode
from veneer.quant.blocks import decode_blocks


@pytest.mark.slow
def test_smollm2_equals_the_plain_reference() -> None:
    model = GgufCheckpoint(smollm2_gguf())
    parts = {
        "attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
        "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "ffn_norm": "post_attention_layernorm",
        "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
    }  # fmt: skip
    names = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}
    for layer in range(30):
        for theirs, ours in parts.items():
            names[f"blk.{layer}.{theirs}.weight"] = f"model.layers.{layer}.{ours}.weight"
    reader = gguf.GGUFReader(smollm2_gguf())
    assert {names[tensor.name] for tensor in reader.tensors} == set(model.names())
    for tensor in reader.tensors:
        expected = np.array(dequantize(tensor.data, tensor.tensor_type))
        if ".attn_q." in tensor.name or ".attn_k." in tensor.name:
            expected = unpermute(expected, 9 if ".attn_q." in tensor.name else 3)
        name = names[tensor.name]
        assert model.shape(name) == expected.shape
        ours = model.read(name, torch.float32)
        assert torch.equal(ours, torch.from_numpy(expected))
        if "layers.7." in name:
            assert torch.equal(model.read(name, torch.bfloat16), ours.bfloat16())


@pytest.mark.parametrize("kind", [Kind.F32, Kind.F16, Kind.BF16, Kind.Q8_0, Kind.Q4_0, Kind.Q4_1, Kind.Q5_0, Kind.Q5_1])
@pytest.mark.parametrize("bias", [False, True])
def test_a_written_model_is_read_back(kind: Kind, bias: bool, tmp_path: Path) -> None:
    model = tiny_model(attention_bias=bias, mlp_bias=bias)
    expected = write_model(tmp_path / "m.gguf", model, kind)
    ours = GgufCheckpoint(tmp_path / "m.gguf")
    assert set(ours.names()) == set(expected)
    for name, tensor in expected.items():
        assert ours.shape(name) == tuple(tensor.shape)
        for dtype in (torch.float32, torch.bfloat16):
            read = ours.read(name, dtype)
            assert read.is_contiguous()
            assert torch.equal(read, tensor.to(dtype))
        if kind == Kind.F32:
            assert torch.equal(ours.read(name, torch.float32), model.state_dict()[name])
    assert (ours.config["attention_bias"], ours.config["mlp_bias"]) == (bias, bias)
    assert not ours.config["tie_word_embeddings"]
    rebuilt = LlamaForCausalLM(LlamaConfig(**ours.config))
    rebuilt.load_state_dict({name: ours.read(name, torch.float32) for name in ours.names()})
    tokens = torch.arange(12).view(2, 6)
    with torch.no_grad():
        model.load_state_dict(expected)
        assert torch.equal(rebuilt(tokens).logits, model(tokens).logits)


@pytest.mark.parametrize("kind", [Kind.Q4_0, Kind.Q4_1, Kind.Q8_0])
def test_blocks_are_read_as_they_stand_in_the_models_order_of_rows(kind: Kind, tmp_path: Path) -> None:
    expected = write_model(tmp_path / "m.gguf", tiny_model(), kind)
    ours = GgufCheckpoint(tmp_path / "m.gguf")
    assert set(ours.blocks) == {name for name, tensor in expected.items() if tensor.ndim == 2}
    for name, held in ours.blocks.items():
        blocks = held.read()
        assert held.format.name == kind.name
        assert torch.equal(decode_blocks(blocks, held.format, torch.float32), expected[name])
        assert blocks.nbytes == expected[name].numel() // 32 * gguf.GGML_QUANT_SIZES[kind][1]


def test_other_formats_are_not_handed_out_in_blocks(tmp_path: Path) -> None:
    for kind in (Kind.F16, Kind.Q5_0):
        write_model(tmp_path / f"{kind.name}.gguf", tiny_model(), kind)
        assert GgufCheckpoint(tmp_path / f"{kind.name}.gguf").blocks == {}


def test_blocks_with_a_scale_that_is_not_finite_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "m.gguf"
    write_model(file, tiny_model(), Kind.Q4_1)
    info = GgufCheckpoint(file).header.tensors["blk.1.ffn_up.weight"]
    for at in (0, 2):  # the scale, and what is added
        raw = bytearray(file.read_bytes())
        struct.pack_into("<e", raw, info.offset + at, float("nan"))
        damaged = tmp_path / f"{at}.gguf"
        damaged.write_bytes(raw)
        with pytest.raises(ModelError, match=r"the scales of model\.layers\.1\.mlp\.up_proj\.weight are NaN"):
            GgufCheckpoint(damaged).blocks["model.layers.1.mlp.up_proj.weight"].read()


@pytest.mark.parametrize("kind", [Kind.Q2_K, Kind.Q3_K, Kind.Q4_K, Kind.Q5_K, Kind.Q6_K])
def test_k_quants_decode_as_the_gguf_package(kind: Kind) -> None:
    block, width = gguf.GGML_QUANT_SIZES[kind]
    raw = np.random.default_rng(0).integers(0, 256, (40, 3 * width), dtype=np.uint8)
    with np.errstate(all="ignore"):
        expected = dequantize(raw, kind)
    ours = decode(raw, kind).numpy().reshape(40, 3 * block)
    np.testing.assert_array_equal(ours, expected)


def test_reading_is_in_chunks_that_do_not_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = write_model(tmp_path / "m.gguf", tiny_model(), Kind.Q8_0)
    monkeypatch.setattr("veneer.io.gguf.reader.CHUNK", 7 * 64)
    ours = GgufCheckpoint(tmp_path / "m.gguf")
    assert all(torch.equal(ours.read(name, torch.float32), tensor) for name, tensor in expected.items())


def test_tensors_that_do_not_fit_the_metadata(tmp_path: Path) -> None:
    file = tmp_path / "m.gguf"
    write_model(file, tiny_model())
    whole = file.read_bytes()
    file.write_bytes(whole.replace(b"blk.1.ffn_up", b"blk.1.ffn_xx"))
    with pytest.raises(ModelError, match=r"(?s)does not have.*blk\.1\.ffn_xx"):
        GgufCheckpoint(file)
    key = b"llama.feed_forward_length"
    at = whole.index(key) + len(key) + 4
    file.write_bytes(whole[:at] + struct.pack("<I", 95) + whole[at + 4 :])
    with pytest.raises(ModelError, match=r"(?s)another shape.*blk\.0\.ffn_gate\.weight: \(96, 64\)"):
        GgufCheckpoint(file)
    file.write_bytes(whole)
    model = GgufCheckpoint(file)
    with pytest.raises(ModelError, match="no tensor 'x'"):
        model.read("x", torch.float32)


@pytest.mark.parametrize("first", [True, False])
def test_a_part_of_a_model_is_said_to_be_one(first: bool, tmp_path: Path) -> None:
    file = tmp_path / "m-00002-of-00003.gguf"
    pairs = b"".join(text(key) + struct.pack("<IH", 2, value) for key, value in ((b"split.no", 1), (b"split.count", 3)))
    architecture = text(b"general.architecture") + struct.pack("<I", 8) + text(b"llama") if first else b""
    file.write_bytes(header(pairs + architecture, counts=(0, 3 if first else 2)))
    with pytest.raises(ModelError, match=r"m-00002-of-00003\.gguf is part 2 of 3 files .*llama-gguf-split --merge"):
        GgufCheckpoint(file)
