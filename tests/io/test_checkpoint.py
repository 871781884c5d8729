"""Opening model directories: what is read, and what is refused with which words."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from helpers.support import smollm2_gguf
from helpers.texts.tiny_tokenizers import byte_level_tokenizer, save_tokenizer
from veneer.errors import ModelError
from veneer.io.checkpoint import (
    Checkpoint,
    SafetensorsCheckpoint,
    dtype_in_headers,
    dtypes_in_headers,
    model_name,
    open_checkpoint,
    read_model_config,
)
from veneer.io.gguf.reader import GgufCheckpoint

TENSORS = {
    "a.weight": torch.randn(5, 3, generator=torch.Generator().manual_seed(0)),
    "b.weight": torch.randn(4, generator=torch.Generator().manual_seed(1)).bfloat16(),
    "c.weight": torch.randn(2, 2, generator=torch.Generator().manual_seed(2)).half(),
    "d.weight": torch.randn(2, generator=torch.Generator().manual_seed(3)).double(),
    "e.weight": torch.empty(0, 3),
    "f.weight": torch.tensor(1.5),
}


def single(path: Path, tensors: dict[str, torch.Tensor] = TENSORS) -> Path:
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text('{"model_type": "llama"}', encoding="utf-8")
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    return path


def sharded(path: Path, weight_map: dict[str, Any] | None = None) -> Path:
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text('{"model_type": "llama"}', encoding="utf-8")
    names = list(TENSORS)
    where = {}
    for index, part in enumerate((names[:3], names[3:])):
        file = f"model-{index + 1:05d}-of-00002.safetensors"
        save_file({name: TENSORS[name] for name in part}, path / file)
        where.update(dict.fromkeys(part, file))
    content = {"metadata": {}, "weight_map": where if weight_map is None else weight_map}
    (path / "model.safetensors.index.json").write_text(json.dumps(content), encoding="utf-8")
    return path


@pytest.mark.parametrize("make", [single, sharded])
def test_tensors_come_back_in_any_type(make: Any, tmp_path: Path) -> None:
    model: Checkpoint = open_checkpoint(make(tmp_path / "m"))
    assert model.names() == sorted(TENSORS)
    for name, expected in TENSORS.items():
        assert model.shape(name) == tuple(expected.shape)
        for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
            tensor = model.read(name, dtype)
            assert tensor.dtype == dtype
            assert tensor.is_contiguous()
            assert torch.equal(tensor, expected.to(dtype))


def test_a_read_is_fresh_and_leaves_the_file_alone(tmp_path: Path) -> None:
    path = single(tmp_path / "m")
    before = (path / "model.safetensors").read_bytes()
    model = open_checkpoint(path)
    first = model.read("a.weight", torch.float32)
    first.zero_()
    assert torch.equal(model.read("a.weight", torch.float32), TENSORS["a.weight"])
    assert (path / "model.safetensors").read_bytes() == before


def test_what_a_directory_says_about_itself(tmp_path: Path) -> None:
    path = sharded(tmp_path / "m")
    save_tokenizer(path, byte_level_tokenizer(), {"eos_token": "<|im_end|>"})
    (path / "generation_config.json").write_text('{"eos_token_id": [1, 2]}', encoding="utf-8")
    model = open_checkpoint(str(path))
    assert model.source == str(path)
    assert model.config == {"model_type": "llama"}
    assert model.generation_config == {"eos_token_id": [1, 2]}
    assert model.tokenizer().eos_token == "<|im_end|>"
    assert {file.name for file in model.files()} == {
        "config.json",
        "generation_config.json",
        "model.safetensors.index.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert open_checkpoint(single(tmp_path / "n")).generation_config == {}


@pytest.mark.parametrize("ends", [2, [1, 2]])
def test_without_a_generation_config_answers_end_where_the_configuration_says(ends: object, tmp_path: Path) -> None:
    path = single(tmp_path)
    config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    (path / "config.json").write_text(json.dumps(config | {"eos_token_id": ends}), encoding="utf-8")
    assert open_checkpoint(path).generation_config == {"eos_token_id": ends}
    (path / "generation_config.json").write_text('{"temperature": 1.0}', encoding="utf-8")
    assert open_checkpoint(path).generation_config == {"temperature": 1.0}


@pytest.mark.parametrize("value", ["2", 2.0, {}, [None], True])
def test_a_generation_config_whose_end_tokens_are_no_ids_is_refused(value: object, tmp_path: Path) -> None:
    path = single(tmp_path / "m")
    (path / "generation_config.json").write_text(json.dumps({"eos_token_id": value}), encoding="utf-8")
    with pytest.raises(ModelError, match=r"generation_config.json has values that no model has:\n  - eos_token_id: "):
        open_checkpoint(path)


def test_missing_paths_and_directories_that_are_no_models(tmp_path: Path) -> None:
    for missing in (tmp_path / "none", str(tmp_path / "none"), "none.gguf", "./some/where/else", "a/none.gguf"):
        with pytest.raises(ModelError, match="does not exist"):
            open_checkpoint(missing)
    with pytest.raises(ModelError, match=r"no config\.json and no \.gguf"):
        open_checkpoint(tmp_path)
    (tmp_path / "x.txt").write_text("x", encoding="utf-8")
    with pytest.raises(ModelError, match=r"not a \.gguf"):
        open_checkpoint(tmp_path / "x.txt")
    with pytest.raises(ModelError, match="is not a directory"):
        SafetensorsCheckpoint(tmp_path / "x.txt")


@pytest.mark.scenario(number=28)
def test_pickles_are_refused_without_opening_them(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ModelError, match=r"has neither model\.safetensors"):
        open_checkpoint(tmp_path)
    (tmp_path / "model.gguf").touch()
    with pytest.raises(ModelError, match=r"but GGUF files\. Name one of these, with its folder:\n  - model\.gguf"):
        open_checkpoint(tmp_path)
    (tmp_path / "model.gguf").unlink()
    (tmp_path / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")
    with pytest.raises(ModelError, match="a pickle, which is refused"):
        open_checkpoint(tmp_path)


def test_index_lists_every_missing_shard(tmp_path: Path) -> None:
    path = sharded(tmp_path, {"a": "one.safetensors", "b": "two.safetensors"})
    with pytest.raises(ModelError, match=r"(?s)one\.safetensors.*two\.safetensors"):
        open_checkpoint(path)


@pytest.mark.scenario(number=27)
@pytest.mark.parametrize(
    "file", ["../x.safetensors", "/etc/x.safetensors", "a\\x.safetensors", "x.bin", 3, None, "x" * 300 + ".safetensors"]
)
def test_index_cannot_point_elsewhere(tmp_path: Path, file: Any) -> None:
    with pytest.raises(ModelError, match="refused"):
        open_checkpoint(sharded(tmp_path, {"a": file}))


def test_index_that_disagrees_with_its_shards(tmp_path: Path) -> None:
    shard = "model-00001-of-00002.safetensors"
    with pytest.raises(ModelError, match=r"ghost \(in model-00001"):
        open_checkpoint(sharded(tmp_path, {"a.weight": shard, "ghost": shard}))
    with pytest.raises(ModelError, match="no weight_map"):
        open_checkpoint(sharded(tmp_path, {}))
    path = sharded(tmp_path)
    (path / "model-00002-of-00002.safetensors").write_bytes((path / shard).read_bytes())
    with pytest.raises(ModelError, match="in two shards"):
        open_checkpoint(path)


def header(content: bytes, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(content) if length is None else length) + content


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00" * 7,
        header(b"{}", 2**63),
        header(b"{}", 200_000_000),
        header(b"\xff\xfe"),
        header(b'{"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}'),
        header(b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 16]}}') + b"\0" * 16,
        header(b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}') + b"\0" * 8,
        header(b'{"a": {"dtype": "F99", "shape": [1], "data_offsets": [0, 4]}}') + b"\0" * 4,
        header(b"[" * 10_000),
    ],
)
def test_damaged_safetensors_are_refused(tmp_path: Path, content: bytes) -> None:
    path = single(tmp_path / "m")
    (path / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match="not a usable safetensors file"):
        open_checkpoint(path)


def test_truncated_safetensors_are_refused(tmp_path: Path) -> None:
    path = single(tmp_path / "m")
    whole = (path / "model.safetensors").read_bytes()
    (path / "model.safetensors").write_bytes(whole[:-1])
    with pytest.raises(ModelError, match="not a usable safetensors file"):
        open_checkpoint(path)


def test_unknown_tensors_and_types_are_named(tmp_path: Path) -> None:
    model = open_checkpoint(single(tmp_path / "m", {"q": torch.zeros(2, dtype=torch.int8)}))
    with pytest.raises(ModelError, match="no tensor 'x'"):
        model.read("x", torch.float32)
    with pytest.raises(ModelError, match="no tensor 'x'"):
        model.shape("x")
    with pytest.raises(ModelError, match="tensor q is stored as I8"):
        model.read("q", torch.float32)


@pytest.mark.parametrize("content", ["{", "[]", "\x00", "[" * 100_000])
def test_damaged_config_is_refused(tmp_path: Path, content: str) -> None:
    path = single(tmp_path / "m")
    (path / "config.json").write_text(content, encoding="utf-8")
    with pytest.raises(ModelError, match=r"config\.json"):
        open_checkpoint(path)


def test_a_quantisation_that_is_not_read_is_refused_by_config_json_alone(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"quantization_config": {"quant_method": "gptq"}}', encoding="utf-8")
    for source in (tmp_path, tmp_path / "config.json"):
        with pytest.raises(ModelError, match=f"{source} was quantised by 'gptq', which is not read"):
            read_model_config(source)


@pytest.mark.parametrize("opened", [open_checkpoint, read_model_config])
def test_a_revision_of_files_that_are_here_is_refused(tmp_path: Path, opened: Callable[..., object]) -> None:
    path = single(tmp_path / "m")
    with pytest.raises(ModelError, match=r"revision 'v1' is for a model of the hub, but .*/m is local.*Leave revision"):
        opened(str(path), revision="v1")


def test_gguf_files_and_directories_of_one(tmp_path: Path) -> None:
    file = smollm2_gguf()
    assert isinstance(open_checkpoint(file), GgufCheckpoint)
    (tmp_path / "one.gguf").symlink_to(file)
    model = open_checkpoint(tmp_path)
    assert isinstance(model, GgufCheckpoint)
    assert model.source == str(tmp_path)
    assert model.files() == [tmp_path / "one.gguf"]
    (tmp_path / "two.gguf").symlink_to(file)
    with pytest.raises(ModelError, match=r"(?s)several GGUF files.*one\.gguf.*two\.gguf"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("order", [(torch.float16, torch.bfloat16), (torch.bfloat16, torch.float16)])
def test_the_dtype_of_mixed_files_is_the_same_whatever_the_order(order: Sequence[torch.dtype], tmp_path: Path) -> None:
    tensors = {f"{name}.weight": torch.ones(2, 2, dtype=dtype) for name, dtype in zip("ab", order, strict=True)}
    files = [single(tmp_path / "m", tensors) / "model.safetensors"]
    assert dtypes_in_headers(files) == {torch.float16, torch.bfloat16}
    assert dtype_in_headers(files) is torch.bfloat16
    wider = [single(tmp_path / "n", tensors | {"c.weight": torch.ones(1, 1)}) / "model.safetensors"]
    assert dtype_in_headers(wider) is torch.float32
    assert dtype_in_headers([single(tmp_path / "o", {"a": torch.ones(3)}) / "model.safetensors"]) is None


def test_weights_that_cannot_be_read_are_not_called_damaged(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").mkdir()
    with pytest.raises(ModelError, match=r"model\.safetensors cannot be read: Is a directory\.$"):
        dtypes_in_headers([tmp_path / "model.safetensors"])


def test_a_model_is_named_for_others_without_the_path_of_this_machine(tmp_path: Path) -> None:
    cached = tmp_path / "hub" / "models--owner--name" / "snapshots" / "0a1b"
    cached.mkdir(parents=True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "model.gguf").write_bytes(b"")
    assert model_name("owner/name") == "owner/name"
    assert model_name(str(cached)) == "owner/name"
    assert model_name(str(tmp_path / "mine")) == "mine"
    assert model_name(str(tmp_path / "model.gguf")) == "model.gguf"
    assert model_name(str(tmp_path / "moved" / "away")) == "away"
