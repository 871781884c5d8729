from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, Gemma3TextConfig, Mamba2Config, Mamba2ForCausalLM

from helpers.gguf.models import write_file
from helpers.models.tiny import tree
from helpers.models.tiny_models import documents, largest_difference, their_logits
from helpers.texts.tiny_tokenizers import byte_level_tokenizer, save_tokenizer
from veneer.io.checkpoint import Checkpoint, open_checkpoint
from veneer.io.gguf.encode import Quant
from veneer.io.model_files import (
    DTYPES,
    own_dtype,
    recorded_dtype,
    save_model,
    save_settings,
    stream_files,
    stream_model,
    written_dtype,
)
from veneer.model.families.choose import spec_from_hf


@pytest.fixture(scope="module")
def origin(tiny_model: Path) -> Checkpoint:
    return open_checkpoint(tiny_model)


def weights(model: Path, scale: float = 1.0, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    found = {name: (scale * tensor).to(dtype) for name, tensor in load_file(model / "model.safetensors").items()}
    embedding = found.pop("model.embed_tokens.weight")
    return {"model.embed_tokens.weight": embedding} | found


def tied(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in tensors.items() if name != "lm_head.weight"}


@pytest.mark.parametrize("dtype", DTYPES.values())
def test_one_tensor_at_a_time_and_all_at_once_write_the_same_model(
    dtype: torch.dtype, origin: Checkpoint, tiny_model: Path, tmp_path: Path
) -> None:
    tensors = tied(weights(tiny_model, 1.5, dtype))
    for name in ("whole", "streamed"):
        (tmp_path / name).mkdir()
    save_model(tmp_path / "whole", tensors, origin)
    shapes = stream_model(tmp_path / "streamed", tensors, iter(tensors.items()), origin)
    assert shapes == {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    found = [load_file(tmp_path / name / "model.safetensors") for name in ("whole", "streamed")]
    for name, tensor in tensors.items():
        assert torch.equal(found[0][name], tensor)
        assert torch.equal(found[1][name], tensor)
    assert tree(tmp_path / "whole").keys() == tree(tmp_path / "streamed").keys()
    configs = [open_checkpoint(tmp_path / name).config for name in ("whole", "streamed")]
    assert recorded_dtype(configs[0]) is recorded_dtype(configs[1]) is dtype


def test_transformers_opens_what_is_written(origin: Checkpoint, tiny_model: Path, tmp_path: Path) -> None:
    tensors = tied(weights(tiny_model))
    stream_model(tmp_path, tensors, iter(tensors.items()), origin)
    texts = documents([9], vocab=200)
    with torch.no_grad():
        ours, theirs = (AutoModelForCausalLM.from_pretrained(path).eval() for path in (tmp_path, tiny_model))
        assert largest_difference(their_logits(ours, texts), their_logits(theirs, texts)) < 1e-6


def test_a_head_of_its_own_unties_and_new_rows_grow_the_vocabulary(
    origin: Checkpoint, tiny_model: Path, tmp_path: Path
) -> None:
    tensors = tied(weights(tiny_model))
    table = tensors["model.embed_tokens.weight"]
    tensors["model.embed_tokens.weight"] = torch.cat((table, table[:3]))
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"] + 1
    stream_model(tmp_path, tensors, iter(tensors.items()), origin)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["tie_word_embeddings"] is False
    assert config["vocab_size"] == len(table) + 3


def test_only_one_tensor_is_held_at_a_time(origin: Checkpoint, tiny_model: Path, tmp_path: Path) -> None:
    import weakref

    tensors = weights(tiny_model)
    living: list[weakref.ref[Tensor]] = []

    def one_by_one() -> Iterator[tuple[str, Tensor]]:
        for name in tensors:
            assert sum(reference() is not None for reference in living) <= 1
            made = tensors[name].clone()
            living.append(weakref.ref(made))
            yield name, made

    stream_files(tmp_path, tensors, one_by_one(), torch.float32, origin)
    assert load_file(tmp_path / "model.safetensors").keys() == tensors.keys()


def test_an_infinite_limit_is_written_as_transformers_reads_it(tmp_path: Path) -> None:
    """As transformers 4 writes the configuration of Mamba 2: `Infinity` by itself, which is no JSON."""
    model = tmp_path / "model"
    mamba = Mamba2Config(num_heads=4, head_dim=16, vocab_size=300, hidden_size=32, state_size=8, num_hidden_layers=1)
    Mamba2ForCausalLM(mamba).save_pretrained(model)
    save_tokenizer(model, byte_level_tokenizer(), {"model_max_length": math.inf})
    infinite = {"config": {"time_step_limit": [0.0, math.inf]}, "generation_config": {"max_time": math.inf}}
    for name, values in infinite.items():
        file = model / f"{name}.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | values))
    save_settings(tmp_path, {"torch_dtype": "float32"}, open_checkpoint(model))
    for file in tmp_path.glob("*.json"):
        assert "Infinity" not in file.read_text().replace('{\n      "__float__": "Infinity"\n    }', "")
    assert AutoConfig.from_pretrained(tmp_path).time_step_limit[1] == math.inf


def test_settings_are_the_origins_but_for_what_changes(origin: Checkpoint, tmp_path: Path) -> None:
    save_settings(tmp_path, {"torch_dtype": "float16", "vocab_size": 7}, origin, {"quant_method": "x"})
    config = json.loads((tmp_path / "config.json").read_text())
    changed = ("dtype", "torch_dtype", "vocab_size")
    same = {key: value for key, value in origin.config.items() if key not in changed}
    assert config == same | {"torch_dtype": "float16", "vocab_size": 7, "quantization_config": {"quant_method": "x"}}
    save_settings(tmp_path, {}, open_checkpoint_of(tmp_path, origin))
    assert "quantization_config" not in json.loads((tmp_path / "config.json").read_text())


def test_the_scaling_of_gemma3_is_written_so_that_transformers_5_takes_it(origin: Checkpoint, tmp_path: Path) -> None:
    """transformers 4 reads `type` where there is no `rope_type`; from 5 on no scaling at all is taken then."""

    def theirs(config: dict[str, Any]) -> Any:
        return Gemma3TextConfig(**config).rope_parameters["full_attention"]["rope_type"]

    config = {"model_type": "gemma3_text", "hidden_size": 64, "intermediate_size": 112, "num_hidden_layers": 6,
              "rope_scaling": {"type": "linear", "factor": 8.0}}  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    save_settings(tmp_path, {}, open_checkpoint_of(tmp_path, origin))
    written = json.loads((tmp_path / "config.json").read_text())
    assert (theirs(dict(config)), theirs(dict(written))) == ("default", "linear")
    spec = spec_from_hf(written)
    assert spec == spec_from_hf(config)
    rotary = spec.layers[5].rope
    assert rotary is not None
    assert rotary.factor == 8.0


def open_checkpoint_of(folder: Path, origin: Checkpoint) -> Checkpoint:
    """A stand-in whose configuration says that it is quantised."""
    from dataclasses import dataclass, field

    @dataclass
    class Quantised:
        config: dict[str, Any] = field(default_factory=lambda: json.loads((folder / "config.json").read_text()))
        generation_config: dict[str, Any] = field(default_factory=dict)

        def tokenizer(self) -> object:
            return origin.tokenizer()

    return Quantised()  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("config", "dtype"),
    [
        ({"dtype": "bfloat16"}, torch.bfloat16),
        ({"torch_dtype": "torch.float16"}, torch.float16),
        ({"dtype": None, "torch_dtype": "float32"}, torch.float32),
        ({"torch_dtype": "float8"}, None),
        ({}, None),
    ],
)
def test_the_recorded_dtype_is_read_under_both_of_its_names(config: dict[str, Any], dtype: torch.dtype | None) -> None:
    assert recorded_dtype(config) is dtype


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=str)
def test_a_model_whose_configuration_names_no_dtype_keeps_that_of_its_weights(
    dtype: torch.dtype, origin: Checkpoint, tiny_model: Path, tmp_path: Path
) -> None:
    save_model(tmp_path, tied(weights(tiny_model, 1.0, dtype)), origin)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({k: v for k, v in config.items() if "dtype" not in k}))
    assert own_dtype(open_checkpoint(tmp_path)) is dtype


@pytest.mark.parametrize(
    ("quant", "dtype"),
    [("f32", torch.float32), ("f16", torch.float16), ("bf16", torch.bfloat16), ("q8_0", torch.bfloat16)],
)
def test_a_gguf_file_keeps_the_dtype_of_most_of_its_weights(
    quant: str, dtype: torch.dtype, tiny_model: Path, tmp_path: Path
) -> None:
    """Its norms are float32 in any case."""
    write_file(tmp_path / "m.gguf", open_checkpoint(tiny_model), tiny_model, Quant(quant))
    assert own_dtype(open_checkpoint(tmp_path / "m.gguf")) is dtype


def test_weights_are_written_in_what_is_asked_else_as_the_base_is_stored(origin: Checkpoint) -> None:
    assert written_dtype("float16", origin) is torch.float16
    assert written_dtype("auto", origin) is torch.float32
