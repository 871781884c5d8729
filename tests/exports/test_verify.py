"""Exports that were damaged: the certificate names the tensor or the step, whatever llama.cpp makes of them, and what
`veneer export` wrote about them is refused by what is wrong in it."""

from __future__ import annotations

import json
import re
import shutil
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import gettempdir
from typing import Any

import gguf
import numpy as np
import pytest

from helpers.models.tiny import run_config
from veneer.config import ComputeSection
from veneer.enums import Dtype
from veneer.errors import ConfigError, ModelError
from veneer.exports import gguf_adapter
from veneer.exports.certificate import Certificate
from veneer.exports.readers import Reader, llama_cpp
from veneer.exports.record import PARITY_FILE, RECORD_FILE
from veneer.exports.request import Target
from veneer.exports.run import export
from veneer.exports.verify import verify
from veneer.training.run import train

FLOAT32 = ComputeSection(device="cpu", dtype=Dtype.FLOAT32, threads=1)


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, tiny_data: Path) -> Path:
    pytest.importorskip("xllamacpp", reason="xllamacpp is not installed (pip install 'veneer[llama-cpp]')")
    output = tmp_path_factory.mktemp("damage") / "run"
    return train(run_config(tiny_model, tiny_data, output, "train.steps=30", "data.held_out=0.2")).output


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, adapter: Path) -> Path:
    output = tmp_path_factory.mktemp("damage") / "gguf"
    record = export(adapter, output, to=Target.GGUF, quant="f32", compute=FLOAT32)
    assert record.parity is not None
    assert [one.reader for one in record.parity.readers] == ["veneer", "llama.cpp"]
    assert all(one.gap < 1e-3 for one in record.parity.readers)
    return output


def checked(whole: Path, folder: Path, damage: Callable[[Path], None]) -> Certificate:
    shutil.copytree(whole, folder)
    damage(folder / "model.gguf")
    certificate = verify(folder, compute=FLOAT32, limit=2)
    assert certificate.damaged == ("model.gguf: has changed",)
    assert not certificate.passed
    return certificate


def in_place(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], None]:  # type: ignore[type-arg]
    def damage(file: Path) -> None:
        reader = gguf.GGUFReader(str(file), "r+")
        (tensor,) = [one for one in reader.tensors if one.name == name]
        tensor.data[:] = change(np.array(tensor.data))
        reader.data.flush()

    return damage


def natural(weight: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
    """q_proj as Hugging Face has it: the way to llama.cpp's order forgotten."""
    return weight.reshape(4, 8, 2, 64).swapaxes(1, 2).reshape(weight.shape)


def with_nan(weight: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
    weight[1, 1] = np.nan
    return weight


def swap(file: Path) -> None:
    reader = gguf.GGUFReader(str(file), "r+")
    up, gate = (
        next(one for one in reader.tensors if one.name == f"blk.0.ffn_{part}.weight") for part in ("up", "gate")
    )
    kept = np.array(up.data)
    up.data[:], gate.data[:] = gate.data, kept
    reader.data.flush()


def test_an_undamaged_one_passes(whole: Path) -> None:
    assert verify(whole, compute=FLOAT32, limit=2).passed


DAMAGE: dict[str, tuple[Callable[[Path], None], tuple[str, ...]]] = {
    "scaled": (in_place("blk.0.ffn_up.weight", lambda w: w * 1.01), ("model.layers.0.mlp.up_proj.weight",)),
    "permutation forgotten": (
        in_place("blk.1.attn_q.weight", natural), ("model.layers.1.self_attn.q_proj.weight",),
    ),
    "not finite": (in_place("blk.1.attn_k.weight", with_nan), ("model.layers.1.self_attn.k_proj.weight",)),
    "swapped": (swap, ("model.layers.0.mlp.gate_proj.weight", "model.layers.0.mlp.up_proj.weight")),
    "norm": (in_place("output_norm.weight", lambda w: w + 1), ("model.norm.weight",)),
}  # fmt: skip


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_tensor_is_named(kind: str, whole: Path, tmp_path: Path) -> None:
    damage, names = DAMAGE[kind]
    certificate = checked(whole, tmp_path / "copy", damage)
    assert certificate.tensors is not None
    assert sorted(problem.split(":")[0] for problem in certificate.tensors.problems) == sorted(names)
    for one in certificate.readers:
        assert any("probabilities" in problem or "reading" in problem for problem in one.problems), one


def text_replaced(before: bytes, after: bytes) -> Callable[[Path], None]:
    def damage(file: Path) -> None:
        content = file.read_bytes()
        assert len(before) == len(after)
        assert content.count(before) == 1
        file.write_bytes(content.replace(before, after))

    return damage


def test_another_template_is_named(whole: Path, tmp_path: Path) -> None:
    damage = text_replaced(b"<|im_start|>assistant\n{% endif", b"<|im_start|>assistanz\n{% endif")
    certificate = checked(whole, tmp_path / "copy", damage)
    for one in certificate.readers:
        (problem,) = one.problems
        assert problem.startswith("template: 2 of 2 conversations are written otherwise")


def test_a_token_that_is_another_is_named(whole: Path, tmp_path: Path) -> None:
    reader = gguf.GGUFReader(str(whole / "model.gguf"))
    field = reader.get_field("tokenizer.ggml.tokens")
    assert field is not None
    token = max((str(one) for one in field.contents() if str(one).isascii() and str(one).isalpha()), key=len)
    spelled = struct.pack("<Q", len(token)) + token.encode()
    certificate = checked(whole, tmp_path / "copy", text_replaced(spelled, spelled[:-1] + b"#"))
    ours, theirs = certificate.readers
    # A merge that makes a token that is not there is refused before anything is compared.
    assert any(token in problem or "not tokens" in problem for problem in ours.problems), ours.problems
    assert theirs.problems[0].startswith(("token ids:", "reading:")), theirs.problems


# ------------------------------------------------------------------------------ found by content, the digests left out


def number(key: str, change: Callable[[float], float]) -> Callable[[Path], None]:
    """Another number under a key, in its place."""

    def damage(file: Path) -> None:
        reader = gguf.GGUFReader(str(file), "r+")
        field = reader.get_field(key)
        assert field is not None
        field.parts[-1][0] = change(field.parts[-1][0])
        reader.data.flush()

    return damage


def kind_of_token(file: Path) -> None:
    """A control token becomes a normal one."""
    reader = gguf.GGUFReader(str(file), "r+")
    tokens, kinds = (reader.get_field(f"tokenizer.ggml.{name}") for name in ("tokens", "token_type"))
    assert tokens is not None
    assert kinds is not None
    place = [str(one) for one in tokens.contents()].index("<|im_end|>")
    kinds.parts[kinds.data[place]][0] = 1
    reader.data.flush()


def swapped_merges(file: Path) -> None:
    """Two neighbouring merges change places, so that they count in another order."""
    reader = gguf.GGUFReader(str(file), "r+")
    field = reader.get_field("tokenizer.ggml.merges")
    assert field is not None
    merges = [str(one) for one in field.contents()]
    at = next(n for n in range(len(merges) - 1) if len(merges[n].encode()) == len(merges[n + 1].encode()))
    first, second = (field.parts[field.data[n]] for n in (at, at + 1))
    kept = np.array(first)
    first[:], second[:] = second, kept
    reader.data.flush()


def row(change: Callable[[np.ndarray], None]) -> Callable[[Path], None]:  # type: ignore[type-arg]
    """The stored rows of a matrix, codes included."""

    def damage(file: Path) -> None:
        reader = gguf.GGUFReader(str(file), "r+")
        (tensor,) = [one for one in reader.tensors if one.name == "blk.1.ffn_up.weight"]
        change(tensor.data)
        reader.data.flush()

    return damage


def swap_rows(data: np.ndarray) -> None:  # type: ignore[type-arg]
    kept = np.array(data[3])
    data[3], data[7] = data[7], kept


def one_row(data: np.ndarray) -> None:  # type: ignore[type-arg]
    data[5] = data[6]


CONTENT: dict[str, tuple[Callable[[Path], None], str]] = {
    "one row": (row(one_row), "tensor model.layers.1.mlp.up_proj.weight: is off by"),
    "two swapped rows": (row(swap_rows), "in 2 of its"),
    "rms eps": (
        number("llama.attention.layer_norm_rms_epsilon", lambda value: value * 1.001),
        "setting llama.attention.layer_norm_rms_epsilon: is ",
    ),
    "rope theta": (number("llama.rope.freq_base", lambda value: value * 1.001), "setting llama.rope.freq_base: is "),
    "swapped merges": (swapped_merges, "setting tokenizer.ggml.merges["),
    "context length": (number("llama.context_length", lambda value: value // 2), "setting llama.context_length: is "),
    "end-of-turn id": (
        number("tokenizer.ggml.eos_token_id", lambda value: value + 1), "setting tokenizer.ggml.eos_token_id: is ",
    ),
    "kind of a control token": (kind_of_token, "setting tokenizer.ggml.token_type["),
    "a letter of the template": (
        text_replaced(b"<|im_start|>assistant\n{% endif", b"<|im_start|>assistanz\n{% endif"),
        "setting tokenizer.chat_template from character ",
    ),
}  # fmt: skip


@pytest.fixture(scope="module", params=["f32", "q8_0", "q4_k_m"])
def healthy(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, adapter: Path) -> Path:
    output = tmp_path_factory.mktemp("damage") / "gguf"
    export(adapter, output, to=Target.GGUF, quant=request.param, compute=FLOAT32, limit=2)
    return output


@pytest.mark.parametrize("kind", CONTENT)
def test_damage_is_found_by_content(kind: str, healthy: Path, tmp_path: Path) -> None:
    damage, said = CONTENT[kind]
    by_content = replace(checked(healthy, tmp_path / "copy", damage), damaged=())
    assert any(said in problem for problem in by_content.problems), by_content.problems


def test_a_truncated_file_is_named(whole: Path, tmp_path: Path) -> None:
    certificate = checked(whole, tmp_path / "copy", lambda file: file.write_bytes(file.read_bytes()[:-4000]) and None)
    assert certificate.tensors is not None
    assert "cannot be opened" in certificate.tensors.problems[0]
    assert all(one.problems[0].startswith("reading:") for one in certificate.readers)


# ------------------------------------------------------------------------------------------------ what stands beside it

RECORD = {
    "model": "owner/base", "adapter": "adapter", "output": "out", "to": "merged", "dtype": "float32",
    "format": "float32", "method": "lora", "base_dtype": "float32", "merged_into": "original",
}  # fmt: skip


def written(folder: Path, record: dict[str, Any], parity: dict[str, Any]) -> Path:
    (folder / RECORD_FILE).write_text(json.dumps(record))
    (folder / PARITY_FILE).write_text(json.dumps(parity))
    return folder


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"method": "x"}, "method: 'x' is unknown; possible are lora, "),
        ({"merged_into": "x"}, "merged_into: 'x' is unknown; possible are original, dequantised"),
        ({"format": "x"}, "format: 'x' is unknown; possible are float32, "),
        ({"dtype": "nn"}, "dtype: 'nn' is unknown; possible are bfloat16, "),
        ({"to": "x"}, "to: 'x' is unknown; possible are peft, "),
        ({"to": "gguf", "dtype": "q8_0", "format": "nf4"}, "format: 'nf4' is unknown; possible are float32, float16, "),
        ({"to": "gguf-adapter", "format": "q4_0"}, "format: 'q4_0' is unknown; possible are float32, "),
        ({"model": None}, "model: must be a text, got None"),
        ({"method": [1]}, "method: must be a text, got [1]"),
        ({"base_dtype": "int8"}, "base_dtype: 'int8' is unknown; possible are bfloat16, "),
    ],
)
def test_a_record_with_a_value_that_no_export_has_is_refused_by_it(
    changes: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=r"export\.json is damaged.*:\n(.*\n)*.*" + re.escape(said)):
        verify(written(tmp_path, RECORD | changes, {"files": {}}))


def test_an_adapter_that_is_not_found_from_here_is_told_with_the_option_that_names_it(tmp_path: Path) -> None:
    folder = written(tmp_path, RECORD | {"adapter": "of/then"}, {"files": {}})
    with pytest.raises(ModelError, match=r"made from the adapter of/then, .* there is no such folder .* --adapter"):
        verify(folder)


def test_a_base_that_is_not_found_from_here_is_told_with_the_record_that_names_it(lora: Path, tmp_path: Path) -> None:
    folder = written(tmp_path, RECORD | {"adapter": str(lora), "model": "of/then/model"}, {"files": {}})
    with pytest.raises(ModelError, match=r"of/then/model does not exist .*export\.json names .* so; give --model"):
        verify(folder)


@pytest.mark.parametrize("files", [[1], "x", {"model.safetensors": 5}])
def test_digests_that_are_none_are_refused(files: Any, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"parity\.json is damaged: files must be names with digests, got "):
        verify(written(tmp_path, RECORD, {"files": files}))


def test_an_export_is_checked_over_the_base_of_its_time(tiny_model: Path, tiny_data: Path, tmp_path: Path) -> None:
    """Neither the dtype of the check nor a lost record of the run may quantise the base in another way."""
    settings = ("method=qlora", "quant.block=32", "train.steps=2", "compute.dtype=bfloat16")
    run = train(run_config(tiny_model, tiny_data, tmp_path / "run", *settings)).output
    export(run, tmp_path / "out", model=tiny_model, compute=FLOAT32, dtype="float32")
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(run / name, bare)
    certificate = verify(tmp_path / "out", adapter=bare, compute=FLOAT32, limit=1)
    assert certificate.passed, certificate.problems
    record = json.loads((tmp_path / "out" / RECORD_FILE).read_text())
    record["quant"]["block"] = 33
    (tmp_path / "out" / RECORD_FILE).write_text(json.dumps(record))
    with pytest.raises(ConfigError, match=r"export\.json.*\n.*quant\.block: .*33"):
        verify(tmp_path / "out", compute=FLOAT32)


def test_an_adapter_is_checked_without_writing_beside_it(
    lora: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("xllamacpp", reason="xllamacpp is not installed: llama.cpp is the reader")
    places = []

    def noted(model: Path, *, adapter: Path) -> Reader:
        places.append(model.parent.parent)
        return llama_cpp(model, adapter=adapter)

    monkeypatch.setattr(gguf_adapter, "llama_cpp", noted)
    export(lora, tmp_path / "out", to=Target.GGUF_ADAPTER, compute=FLOAT32, limit=1)
    assert verify(tmp_path / "out", compute=FLOAT32, limit=1).passed
    assert places == [tmp_path, Path(gettempdir())]
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]
