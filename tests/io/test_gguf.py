"""GGUF files: the tensors and the configuration of the Hugging Face model, and nothing but ModelError for bad files."""

from __future__ import annotations

import random
import struct
import time
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from gguf.quants import dequantize, quantize
from transformers import LlamaConfig, LlamaForCausalLM

from support import smollm2_gguf
from tiny_tokenizers import write_vocabulary_gguf
from veneer.errors import ModelError
from veneer.io.gguf import header as gguf_header
from veneer.io.gguf.header import read_header
from veneer.io.gguf.reader import GgufCheckpoint, decode
from veneer.io.gguf.rope import llama3_factors, rope_scaling_from_factors

# ----------------------------------------------------------------------------------------------------------- SmolLM2


def unpermute(rows: np.ndarray[Any, Any], heads: int) -> np.ndarray[Any, Any]:
    """Undo llama.cpp's interleaving, one row at a time: the plain reference."""
    size = rows.shape[0] // heads
    out = np.empty_like(rows)
    for head in range(heads):
        for pair in range(size // 2):
            out[head * size + pair] = rows[head * size + 2 * pair]
            out[head * size + size // 2 + pair] = rows[head * size + 2 * pair + 1]
    return out


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


def test_smollm2_configuration() -> None:
    model = GgufCheckpoint(smollm2_gguf())
    assert model.config == {
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 576, "intermediate_size": 1536,
        "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3, "head_dim": 64,
        "hidden_act": "silu", "rms_norm_eps": 1e-5, "rope_theta": 100000.0, "rope_scaling": None,
        "max_position_embeddings": 8192, "vocab_size": 49152, "attention_bias": False, "mlp_bias": False,
        "tie_word_embeddings": True, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2,
    }  # fmt: skip
    assert LlamaConfig(**model.config).head_dim == 64
    assert model.generation_config == {}
    assert model.files() == [smollm2_gguf()]


# -------------------------------------------------------------------------------- a tiny model, written by this test


def permute(rows: np.ndarray[Any, Any], heads: int) -> np.ndarray[Any, Any]:
    """Interleave the two halves of every head, as conversion to GGUF does."""
    split = rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:])
    return np.ascontiguousarray(split.swapaxes(1, 2)).reshape(rows.shape)


NAMES = {
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}  # fmt: skip


def tiny_model(**changes: Any) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        head_dim=32, vocab_size=40, max_position_embeddings=128, rms_norm_eps=1e-6, tie_word_embeddings=False,
        **changes,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    return model


def write_model(path: Path, model: LlamaForCausalLM, kind: Kind = Kind.F32, **extra: Any) -> dict[str, torch.Tensor]:
    """Write `model` as GGUF; gives the tensors that a reader must get back (after quantisation)."""
    config = model.config
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    for key, value in extra.items():
        if isinstance(value, np.ndarray):
            writer.add_tensor("rope_freqs.weight", value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        else:
            writer.add_float32(key, value)
    expected = {}
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for name, tensor in model.state_dict().items():
        value = tensor.numpy()
        module, _, suffix = name.rpartition(".")
        prefix = ""
        if module.startswith("model.layers."):
            _, _, layer, module = module.split(".", 3)
            prefix = f"blk.{layer}."
        count = heads.get(module.rpartition(".")[2], 0)
        stored = permute(value, count) if count else value
        target = f"{prefix}{NAMES[module]}.{suffix}"
        if value.ndim == 1:
            writer.add_tensor(target, stored)
            expected[name] = tensor
            continue
        packed = quantize(stored, kind)
        writer.add_tensor(target, packed, raw_dtype=kind)
        plain = dequantize(packed, kind).reshape(stored.shape)
        expected[name] = torch.from_numpy(unpermute(plain, count) if count else plain)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return expected


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


# ------------------------------------------------------------------------------------------------------ rope scaling


@pytest.mark.parametrize(("factor", "original"), [(8.0, 8192), (32.0, 8192), (4.0, 48)])
def test_llama3_scaling_is_recovered(factor: float, original: int, tmp_path: Path) -> None:
    scaling = {
        "rope_type": "llama3", "factor": factor, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": original,
    }  # fmt: skip
    model = tiny_model(rope_parameters={"rope_theta": 10000.0, **scaling})
    plain = tiny_model()
    # The divisors that transformers itself applies: the oracle for llama3_factors.
    factors = (plain.model.rotary_emb.inv_freq / model.model.rotary_emb.inv_freq).numpy()
    np.testing.assert_allclose(llama3_factors(32, 10000.0, factor, original), factors, rtol=1e-5)
    write_model(tmp_path / "m.gguf", plain, factors=factors)
    found = GgufCheckpoint(tmp_path / "m.gguf").config["rope_scaling"]
    assert found == {**scaling, "factor": pytest.approx(factor, rel=1e-6)}


def test_factors_that_are_not_llama3s_are_passed_on() -> None:
    factors = np.array([1.0, 1.5, 2.0, 1.7], dtype=np.float32)
    scaling = rope_scaling_from_factors(factors, 8, 10000.0, 64)
    assert scaling == {"rope_type": "veneer_factors", "factors": [float(value) for value in factors]}
    assert rope_scaling_from_factors(np.ones(4, dtype=np.float32), 8, 10000.0, 64) is None


def test_linear_scaling_and_kinds_that_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "m.gguf"
    write_model(file, tiny_model(), **{"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 2.5})
    assert GgufCheckpoint(file).config["rope_scaling"] == {"rope_type": "linear", "factor": 2.5}
    write_model(file, tiny_model(), **{"llama.rope.scaling.type": "yarn", "llama.rope.scaling.factor": 2.5})
    expected = {"rope_type": "yarn", "factor": 2.5, "original_max_position_embeddings": 128}
    assert GgufCheckpoint(file).config["rope_scaling"] == expected
    write_model(file, tiny_model(), **{"llama.rope.scaling.type": "spiral", "llama.rope.scaling.factor": 2.5})
    with pytest.raises(ModelError, match="rope scaling of the type 'spiral'"):
        GgufCheckpoint(file)
    write_model(file, tiny_model(), factors=np.full(16, np.nan, dtype=np.float32))
    with pytest.raises(ModelError, match="not positive numbers"):
        GgufCheckpoint(file)


# --------------------------------------------------------------------------------------------------- hostile files


def header(pairs: bytes = b"", tensors: bytes = b"", *, version: int = 3, counts: tuple[int, int] = (0, 0)) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, *counts) + pairs + tensors


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def tensor(name: bytes, shape: tuple[int, ...], kind: int = 0, offset: int = 0, rank: int | None = None) -> bytes:
    rank = len(shape) if rank is None else rank
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", rank, *shape, kind, offset)


BAD = {
    "empty": (b"", "empty"),
    "short magic": (b"GG", "magic number needs"),
    "other magic": (b"GGML" + b"\0" * 40, "does not start"),
    "version 1": (header(version=1), "version is 1"),
    "version 4": (header(version=4), "version is 4"),
    "big-endian": (header(version=3 << 24), "big-endian"),
    "no counts": (header()[:12], "tensor count needs"),
    "many tensors": (header(counts=(1 << 62, 0)), "at most 65536"),
    "many keys": (header(counts=(0, 1 << 62)), "at most 65536"),
    "missing keys": (header(counts=(0, 3)), "needs 8 bytes where 0"),
    "long key": (header(struct.pack("<Q", 1 << 63), counts=(0, 1)), "at most 65536"),
    "key beyond": (header(struct.pack("<Q", 60000), counts=(0, 1)), "needs 60000 bytes"),
    "key not text": (header(text(b"\xff") + struct.pack("<IB", 0, 1), counts=(0, 1)), "not UTF-8"),
    "key twice": (header((text(b"k") + struct.pack("<IB", 0, 1)) * 2, counts=(0, 2)), "appears twice"),
    "type of value": (header(text(b"k") + struct.pack("<I", 99), counts=(0, 1)), "unknown type 99"),
    "value beyond": (header(text(b"k") + struct.pack("<I", 12), counts=(0, 1)), "needs 8 bytes"),
    "string beyond": (header(text(b"k") + struct.pack("<IQ", 8, (1 << 64) - 1), counts=(0, 1)), "needs 1844674407"),
    "array huge": (header(text(b"k") + struct.pack("<IIQ", 9, 0, 1 << 60), counts=(0, 1)), "at most 4194304"),
    "array beyond": (header(text(b"k") + struct.pack("<IIQ", 9, 10, 1 << 20), counts=(0, 1)), "needs 8388608 bytes"),
    "strings beyond": (header(text(b"k") + struct.pack("<IIQ", 9, 8, 1 << 20), counts=(0, 1)), "ends after 0 of"),
    "nested array": (header(text(b"k") + struct.pack("<IIQ", 9, 9, 1), counts=(0, 1)), "nested"),
    "alignment 3": (header(text(b"general.alignment") + struct.pack("<II", 4, 3), counts=(0, 1)), "power of two"),
    "alignment 0": (header(text(b"general.alignment") + struct.pack("<II", 4, 0), counts=(0, 1)), "power of two"),
    "alignment real": (header(text(b"general.alignment") + struct.pack("<If", 6, 32), counts=(0, 1)), "power of two"),
    "rank 0": (header(b"", tensor(b"t", ()), counts=(1, 0)), "0 dimensions"),
    "rank 9": (header(b"", tensor(b"t", (1,), rank=9), counts=(1, 0)), "9 dimensions"),
    "extent 0": (header(b"", tensor(b"t", (0, 4)), counts=(1, 0)), "cannot fill"),
    "kind": (header(b"", tensor(b"t", (4,), kind=77), counts=(1, 0)), "unknown type 77"),
    "part of a block": (header(b"", tensor(b"t", (33,), kind=8), counts=(1, 0)), "cannot fill"),
    "product overflows": (header(b"", tensor(b"t", (1 << 62, 1 << 62, 4)), counts=(1, 0)), "beyond the end"),
    "offset unaligned": (header(b"", tensor(b"t", (4,), offset=5), counts=(1, 0)), "not a multiple"),
    "offset beyond": (header(b"", tensor(b"t", (4,), offset=1 << 40), counts=(1, 0)), "beyond the end"),
    "size beyond": (header(b"", tensor(b"t", (64,)), counts=(1, 0)) + b"\0" * 64, "beyond the end"),
    "tensor twice": (header(b"", tensor(b"t", (4,)) * 2, counts=(2, 0)) + b"\0" * 96, "appears twice"),
    "long name": (header(b"", tensor(b"t" * 300, (4,)), counts=(1, 0)), "at most 256"),
    "overlap": (
        header(b"", tensor(b"t", (16,)) + tensor(b"u", (8,), offset=32), counts=(2, 0)) + b"\0" * 128, "overlap",
    ),
    "no architecture": (header(), "architecture None"),
}  # fmt: skip


@pytest.mark.parametrize("kind", list(BAD))
def test_bad_files_are_refused(kind: str, tmp_path: Path) -> None:
    content, message = BAD[kind]
    (tmp_path / "m.gguf").write_bytes(content)
    with pytest.raises(ModelError, match=message):
        GgufCheckpoint(tmp_path / "m.gguf")


def test_other_architectures_are_named(tmp_path: Path) -> None:
    pair = text(b"general.architecture") + struct.pack("<I", 8) + text(b"bloom")
    (tmp_path / "m.gguf").write_bytes(header(pair, counts=(0, 1)))
    with pytest.raises(ModelError, match=r"architecture 'bloom'; GGUF files of command-r, .* are read"):
        GgufCheckpoint(tmp_path / "m.gguf")
    with pytest.raises(ModelError, match="cannot be read"):
        GgufCheckpoint(tmp_path / "absent.gguf")


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


def test_random_mutations_raise_only_model_errors(tmp_path: Path) -> None:
    file = tmp_path / "m.gguf"
    merges = ["a b", "ab c"]
    tokens = ["<s>", "</s>", "a", "b", "c", "ab", "abc", "Ġ"]
    write_vocabulary_gguf(
        file, tokens, [3, 3, 1, 1, 1, 1, 1, 1], model="gpt2", pre="gpt-2", merges=merges, bos_token_id=0, eos_token_id=1
    )
    whole = file.read_bytes()
    end = min(info.offset for info in read_header(file).tensors.values())
    source = random.Random(0)
    refused = 0
    slowest = 0.0
    for _ in range(1000):
        content = bytearray(whole)
        for _ in range(source.randint(1, 4)):
            at = source.randrange(end)
            action = source.randrange(5)
            if action == 0:
                content[at] = source.randrange(256)
            elif action == 1:
                content[at] ^= 1 << source.randrange(8)
            elif action == 2:
                content[at : at + 8] = struct.pack(
                    "<Q", source.choice([0, 1, 1 << 31, 1 << 32, 1 << 63, (1 << 64) - 1])
                )
            elif action == 3:
                del content[at : at + source.randint(1, 16)]
            else:
                del content[source.randrange(len(content)) :]
                break
            if len(content) <= end:
                break
        file.write_bytes(content)
        start = time.perf_counter()
        try:
            model = GgufCheckpoint(file)
            for name in model.names():
                model.read(name, torch.float32)
            model.tokenizer().encode("abc <s> cab")
        except ModelError:
            refused += 1
        slowest = max(slowest, time.perf_counter() - start)
    assert refused > 500
    assert slowest < 2.0


def test_limits_are_above_what_models_need() -> None:
    assert gguf_header.MAX_ARRAY > 1_000_000
    assert gguf_header.MAX_ENTRIES > 10_000
