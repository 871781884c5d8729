"""The format itself; whole models are compared with bitsandbytes' in tests/test_quantization.py."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import Tensor

from veneer.config import QuantSection
from veneer.enums import Scheme
from veneer.errors import ModelError
from veneer.io.prequantised import (
    StoredTensors,
    StoredWeight,
    check_method,
    described_quantisation,
    parts_of,
    quantization_config,
)
from veneer.quant.schemes import pack
from veneer.quantization import stored_weight

SECTIONS = {
    "nf4": QuantSection(double_quant=False),
    "nf4 nested": QuantSection(),
    "fp4 in blocks of 128": QuantSection(scheme=Scheme.FP4, block=128),
    "int8": QuantSection(scheme=Scheme.INT8),
}
PATHS = [f"model.layers.{n}.{leaf}" for n in range(2) for leaf in ("self_attn.q_proj", "mlp.up_proj", "mlp.down_proj")]


def stored(kind: str, seed: int = 0) -> StoredWeight:
    weight = torch.randn(48, 80, generator=torch.Generator().manual_seed(seed))
    return stored_weight(pack(weight, None, SECTIONS[kind]))


def opened(tensors: dict[str, Tensor]) -> StoredTensors:
    return StoredTensors("m", tensors, lambda name: tensors[name].clone(), lambda name: tuple(tensors[name].shape))


@pytest.mark.parametrize("kind", SECTIONS)
def test_codes_and_scales_come_back_bit_by_bit(kind: str) -> None:
    written = stored(kind)
    tensors = parts_of("a.up_proj.weight", written, torch.bfloat16) | {"a.norm.weight": torch.ones(3)}
    found = opened(tensors)
    assert found.formats == {"a.up_proj.weight": written.format}
    assert found.parts == tensors.keys() - {"a.up_proj.weight", "a.norm.weight"}
    again = found.read("a.up_proj.weight")
    for name in ("codes", "scales", "values", "nested_scales", "nested_values"):
        one, other = getattr(again, name), getattr(written, name)
        assert (one is None) is (other is None), name
        assert one is None or torch.equal(one, other), name
    assert again.nested_offset == written.nested_offset


def test_codes_of_another_storage_dtype_are_the_same_bytes() -> None:
    """bitsandbytes may keep codes as bfloat16 (`bnb_4bit_quant_storage`)."""
    written = stored("nf4")
    tensors = parts_of("a.weight", written, torch.float32)
    tensors["a.weight"] = tensors["a.weight"].view(-1).view(torch.bfloat16)[:, None]
    assert torch.equal(opened(tensors).read("a.weight").codes, written.codes)


def test_codes_without_dimensions_are_bytes_too() -> None:
    tensors = parts_of("a.weight", stored("nf4"), torch.float32) | {"a.weight": torch.zeros((), dtype=torch.bfloat16)}
    assert opened(tensors).read("a.weight").codes.tolist() == [0, 0]


@pytest.mark.parametrize("kind", SECTIONS)
def test_a_part_that_is_missing_is_named(kind: str) -> None:
    tensors = parts_of("a.weight", stored(kind), torch.float32)
    for name in tensors:
        if "quant_state" in name or name.endswith(("weight_format", "SCB")):
            continue
        with pytest.raises(ModelError, match=rf"m lacks parts of a quantised weight: {name}"):
            opened({other: tensor for other, tensor in tensors.items() if other != name})


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"shape": 3}', '{"shape": [4, "x"], "blocksize": 64}', '{"shape": [1e999, 4]}', "[" * 9000],
)
def test_a_damaged_state_is_named(text: str) -> None:
    tensors = parts_of("a.weight", stored("nf4"), torch.float32)
    tensors["a.weight.quant_state.bitsandbytes__nf4"] = torch.tensor(list(text.encode()), dtype=torch.uint8)
    with pytest.raises(ModelError, match=r"a\.weight\.quant_state\.bitsandbytes__nf4 is damaged"):
        opened(tensors)


def test_what_bitsandbytes_never_writes_is_refused() -> None:
    tensors = parts_of("a.weight", stored("nf4 nested"), torch.float32)
    name = "a.weight.quant_state.bitsandbytes__nf4"
    state = json.loads(bytes(tensors[name].tolist())) | {"nested_blocksize": 128}
    tensors[name] = torch.tensor(list(json.dumps(state).encode()), dtype=torch.uint8)
    with pytest.raises(ModelError, match="nested scales in blocks of 128"):
        opened(tensors)
    for other in ({"quant_type": "fp4"}, {"dtype": "uint8"}):
        state = json.loads(bytes(parts_of("a.weight", stored("nf4"), torch.float32)[name].tolist())) | other
        tensors = parts_of("a.weight", stored("nf4"), torch.float32)
        tensors[name] = torch.tensor(list(json.dumps(state).encode()), dtype=torch.uint8)
        with pytest.raises(ModelError, match=rf"{name} is damaged.*{next(iter(other.values()))}"):
            opened(tensors)
    for order in (1, torch.nan):
        tensors = parts_of("a.weight", stored("int8"), torch.float32) | {"a.weight_format": torch.tensor(order)}
        with pytest.raises(ModelError, match=rf"a\.weight_format is {order}; only 0"):
            opened(tensors)


def test_a_weight_in_two_formats_is_refused() -> None:
    tensors = [parts_of("a.weight", stored(kind), torch.float32) for kind in ("nf4", "fp4 in blocks of 128")]
    with pytest.raises(ModelError, match=r"m: a\.weight has two quantisation states"):
        opened(tensors[0] | tensors[1])


@pytest.mark.parametrize("kind", SECTIONS)
def test_config_json_says_how_the_files_are_quantised(kind: str) -> None:
    quant = SECTIONS[kind]
    config = {"quantization_config": quantization_config(quant, ["lm_head", PATHS[4]], torch.bfloat16)}
    found = described_quantisation(config, PATHS)
    assert found is not None
    assert found.scheme is quant.scheme
    assert found.skip_modules == (PATHS[4],)
    assert found.double_quant is quant.double_quant or quant.scheme is Scheme.INT8


@pytest.mark.parametrize(
    ("names", "dense"),
    [
        (["up_proj"], [PATHS[1], PATHS[4]]),
        (["model.layers.1"], PATHS[3:]),
        (["model.layers.[0-9]+.mlp"], [PATHS[1], PATHS[2], PATHS[4], PATHS[5]]),
        (["model.layers.1.self"], []),
        (["("], []),
        (None, []),
    ],
)
def test_skipped_layers_are_those_that_transformers_means(names: list[str] | None, dense: list[str]) -> None:
    """A regular expression for the beginning of a path, up to a dot, or the end of a path."""
    settings = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "llm_int8_skip_modules": names}
    found = described_quantisation({"quantization_config": settings}, PATHS)
    assert found is not None
    assert sorted(found.skip_modules) == sorted(dense)


@pytest.mark.parametrize("settings", [None, {}, {"quant_method": "gptq"}, {"bnb_4bit_quant_type": "int5"}])
def test_files_that_are_not_quantised_so_have_no_description(settings: Any) -> None:
    assert described_quantisation({"quantization_config": settings}, PATHS) is None


@pytest.mark.parametrize("method", ["gptq", "awq", "aqlm", "quanto"])
def test_other_methods_are_refused_by_name(method: str) -> None:
    check_method("m", {})
    for read in ("bitsandbytes", "fp8", "fbgemm_fp8", "mxfp4"):
        check_method("m", {"quantization_config": {"quant_method": read}})
    with pytest.raises(ModelError, match=f"m was quantised by '{method}', which is not read"):
        check_method("m", {"quantization_config": {"quant_method": method}})


@pytest.mark.parametrize("settings", ["bitsandbytes", [1], 4])
def test_a_quantisation_that_is_no_object_is_refused(settings: Any) -> None:
    with pytest.raises(ModelError, match=r"m: quantization_config of config\.json is .*a JSON object"):
        check_method("m", {"quantization_config": settings})


def test_compressed_tensors_are_read_if_they_are_floats_of_8_bits() -> None:
    def config(**weights: Any) -> dict[str, Any]:
        group = {"weights": {"type": "float", "num_bits": 8, "strategy": "channel"} | weights}
        return {"quantization_config": {"quant_method": "compressed-tensors", "config_groups": {"group_0": group}}}

    check_method("m", config())
    for changes, named in (({"num_bits": 4}, "float, 4 bits"), ({"type": "int"}, "int, 8 bits")):
        with pytest.raises(ModelError, match=named):
            check_method("m", config(**changes))
