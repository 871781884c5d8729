"""NaN and infinite weights are refused by the tensor's name, wherever they stand."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from gguf.constants import GGML_QUANT_SIZES
from gguf.constants import GGMLQuantizationType as Kind
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from helpers.gguf.files import tiny_model
from helpers.gguf.files import write_model as write_gguf
from veneer.enums import Scheme
from veneer.errors import ModelError
from veneer.io.checkpoint import open_checkpoint
from veneer.io.finite import check_finite
from veneer.io.gguf.reader import GgufCheckpoint, decode
from veneer.io.prequantised import StoredFormat, StoredWeight, parts_of

BROKEN = [float("nan"), float("inf"), float("-inf")]


def model(folder: Path, tensors: dict[str, torch.Tensor]) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llama"}', encoding="utf-8")
    save_file(tensors, folder / "model.safetensors")
    return folder


@given(
    place=st.integers(0, 299),
    value=st.sampled_from(BROKEN),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
)
def test_any_place_is_found(place: int, value: float, dtype: torch.dtype) -> None:
    tensor = torch.randn(20, 15, generator=torch.Generator().manual_seed(place)).to(dtype)
    check_finite("m", "w", tensor)
    tensor.view(-1)[place] = value
    with pytest.raises(ModelError, match="m: 1 of the 300 values of w are NaN or infinite"):
        check_finite("m", "w", tensor)


def test_both_infinities_and_sums_that_overflow() -> None:
    with pytest.raises(ModelError, match="2 of the 4"):
        check_finite("m", "w", torch.tensor([1.0, float("inf"), float("-inf"), 2.0]))
    check_finite("m", "w", torch.full((9,), 3e38))
    check_finite("m", "w", torch.full((9,), 60_000.0).half())
    check_finite("m", "w", torch.tensor([1, 2]))
    check_finite("m", "w", torch.empty(0))


@pytest.mark.parametrize("value", BROKEN)
@pytest.mark.parametrize("read", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, torch.float16])
def test_reading_a_model_refuses_them(stored: torch.dtype, read: torch.dtype, value: float, tmp_path: Path) -> None:
    good, bad = torch.ones(4, 3).to(stored), torch.ones(4, 3).to(stored)
    bad[2, 1] = value
    files = open_checkpoint(model(tmp_path / "m", {"good.weight": good, "bad.weight": bad}))
    assert torch.equal(files.read("good.weight", read), good.to(read))
    with pytest.raises(ModelError, match=r"1 of the 12 values of bad\.weight are NaN or infinite"):
        files.read("bad.weight", read)


@pytest.mark.parametrize(
    ("value", "stored", "read", "said"),
    [
        (1e5, torch.float32, torch.float16, r"up to 1e\+05 in w do not fit float16.*Use bfloat16 or float32\."),
        (-1e5, torch.bfloat16, torch.float16, r"up to 9\.98e\+04 in w do not fit float16.*Use bfloat16 or float32\."),
        (3.4e38, torch.float32, torch.bfloat16, r"up to 3\.4e\+38 in w do not fit bfloat16.*Use float32\."),
        (1e300, torch.float64, torch.float32, r"up to 1e\+300 in w do not fit float32.*No dtype"),
    ],
)
def test_a_number_that_the_wanted_dtype_lacks_is_refused_and_a_wider_dtype_named(
    value: float, stored: torch.dtype, read: torch.dtype, said: str, tmp_path: Path
) -> None:
    files = open_checkpoint(model(tmp_path / "m", {"w": torch.tensor([value, 1.0], dtype=stored)}))
    with pytest.raises(ModelError, match=said):
        files.read("w", read)


@pytest.mark.parametrize("kind", [Kind.F32, Kind.BF16, Kind.Q8_0], ids=lambda kind: kind.name)
def test_a_number_of_a_gguf_file_that_float16_lacks_is_refused(kind: Kind, tmp_path: Path) -> None:
    large, name = tiny_model(), "model.layers.1.mlp.up_proj.weight"
    with torch.no_grad():
        large.get_parameter(name)[3, 5] = 1e5
    write_gguf(tmp_path / "model.gguf", large, kind)
    files = GgufCheckpoint(tmp_path / "model.gguf")
    assert torch.isfinite(files.read(name, torch.bfloat16)).all()
    with pytest.raises(ModelError, match=rf"in {name} do not fit float16.*Use bfloat16 or float32"):
        files.read(name, torch.float16)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_fp8_without_scales_is_looked_at(kind: torch.dtype, dtype: torch.dtype, tmp_path: Path) -> None:
    most = torch.finfo(kind).max
    files = open_checkpoint(
        model(tmp_path / "m", {"w": torch.tensor([1.0, float("nan")]).to(kind), "v": torch.full((9,), most).to(kind)})
    )
    assert files.read("v", dtype).tolist() == [most] * 9
    with pytest.raises(ModelError, match="1 of the 2 values of w are NaN or infinite"):
        files.read("w", dtype)


def test_scales_that_lead_out_of_float16_are_told_from_damage(tmp_path: Path) -> None:
    codes = torch.full((4, 8), 400.0).to(torch.float8_e4m3fn)
    files = open_checkpoint(model(tmp_path / "m", {"w": codes, "w_scale": torch.tensor(1000.0)}))
    with pytest.raises(ModelError, match=r"values up to 3\.84e\+05 in w do not fit float16"):
        files.read("w", torch.float16)


def quantised(kind: str) -> StoredWeight:
    """A weight of 64 x 64 whose scales are broken, in a format of bitsandbytes."""
    broken = torch.ones(64).index_fill_(0, torch.tensor([7]), float("nan"))
    nested = kind == "nested"
    scheme = Scheme.INT8 if kind == "int8" else Scheme.NF4
    return StoredWeight(
        format=StoredFormat(scheme=scheme, shape=(64, 64), block=64, nested=nested),
        codes=torch.zeros(64, 64, dtype=torch.int8) if kind == "int8" else torch.zeros(2048, dtype=torch.uint8),
        scales=torch.zeros(64, dtype=torch.uint8) if nested else broken,
        values=torch.zeros(16),
        nested_scales=torch.tensor([float("inf")]) if nested else None,
        nested_values=torch.zeros(256) if nested else None,
    )


@pytest.mark.parametrize(("kind", "count"), [("plain", "64"), ("nested", "1"), ("int8", "64")])
def test_scales_of_quantised_weights_are_looked_at(kind: str, count: str, tmp_path: Path) -> None:
    files = open_checkpoint(model(tmp_path / "m", parts_of("a.weight", quantised(kind), torch.float32)))
    with pytest.raises(ModelError, match=rf"1 of the {count} values of the scales of a\.weight"):
        files.read_stored("a.weight")


HALVES = {
    Kind.Q4_0: [0], Kind.Q4_1: [0, 2], Kind.Q5_0: [0], Kind.Q5_1: [0, 2], Kind.Q8_0: [0], Kind.Q2_K: [80, 82],
    Kind.Q3_K: [108], Kind.Q4_K: [0, 2], Kind.Q5_K: [0, 2], Kind.Q6_K: [208],
}  # fmt: skip
"""Where the scales (and minima) of a block stand, by llama.cpp's structures: each is a float16."""


@pytest.mark.parametrize("value", BROKEN)
@pytest.mark.parametrize("kind", HALVES, ids=lambda kind: kind.name)
def test_scales_of_blocks_of_gguf_decode_to_what_is_refused(kind: Kind, value: float) -> None:
    _, size = GGML_QUANT_SIZES[kind]
    for place in HALVES[kind]:
        raw = np.random.default_rng(place).integers(1, 60, (1, 3 * size), dtype=np.uint8)
        at = size + place
        raw[0, at : at + 2] = np.array([value], np.float16).view(np.uint8)
        with pytest.raises(ModelError, match=r"values of w are NaN or infinite"):
            check_finite("m", "w", decode(raw, kind))
        raw[0, at : at + 2] = np.array([0.5], np.float16).view(np.uint8)
        check_finite("m", "w", decode(raw, kind))


@pytest.mark.parametrize("kind", [Kind.Q8_0, Kind.Q4_0], ids=lambda kind: kind.name)
def test_a_gguf_file_with_a_broken_scale_is_refused_by_the_name_of_the_tensor(kind: Kind, tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    write_gguf(file, tiny_model(), kind)
    name = "blk.1.ffn_up.weight"
    (tensor,) = [one for one in gguf.GGUFReader(file).tensors if one.name == name]
    content = bytearray(file.read_bytes())
    at = tensor.data_offset + 3 * GGML_QUANT_SIZES[kind][1]
    content[at : at + 2] = np.array([np.nan], np.float16).tobytes()
    file.write_bytes(content)
    files = GgufCheckpoint(file)
    files.read("model.layers.0.mlp.up_proj.weight", torch.float32)
    with pytest.raises(ModelError, match=r"values of model\.layers\.1\.mlp\.up_proj\.weight are NaN or infinite"):
        files.read("model.layers.1.mlp.up_proj.weight", torch.float32)


@pytest.mark.parametrize("value", BROKEN)
def test_scales_of_fp8_and_mxfp4_are_looked_at(value: float, tmp_path: Path) -> None:
    scales = torch.ones(50, 1)
    scales[7] = value
    eight = {"a.weight": torch.ones(50, 70).to(torch.float8_e4m3fn), "a.weight_scale": scales}
    powers = torch.full((3, 10, 2), 127, dtype=torch.uint8)
    powers[1, 2, 0] = 255  # NaN, by the format
    four = {"mlp.experts.down_proj_blocks": torch.ones(3, 10, 2, 16, dtype=torch.uint8)}
    four["mlp.experts.down_proj_scales"] = powers
    for method, tensors in (("fp8", eight), ("mxfp4", four)):
        folder = model(tmp_path / method, tensors)
        described = {"model_type": "llama", "quantization_config": {"quant_method": method}}
        (folder / "config.json").write_text(json.dumps(described), encoding="utf-8")
        files = open_checkpoint(folder)
        (name,) = files.names()
        with pytest.raises(ModelError, match=rf"values of {name} are NaN or infinite"):
            files.read(name, torch.float32)
