"""fp8 and MXFP4 weights: what is read is code × scale, as transformers decodes them and as a slow loop does."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers.integrations.finegrained_fp8 import Fp8Dequantize
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from helpers.models.tiny_models import tiny_llama
from veneer.config import QuantSection
from veneer.errors import ModelError
from veneer.io.checkpoint import Checkpoint, open_checkpoint
from veneer.io.scaled import decode_float8, decode_mxfp4
from veneer.loading.forms import WeightForm
from veneer.loading.how import Loading
from veneer.loading.load import load_model
from veneer.quant.four_bit import QuantLinear

FP8 = torch.float8_e4m3fn
BLOCKS = {"quant_method": "fp8", "weight_block_size": [128, 128]}
NAME = "a.weight"


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def written(path: Path, tensors: dict[str, Tensor], settings: dict[str, Any] | None) -> Checkpoint:
    """A directory with these tensors and this quantization_config, opened."""
    config = {"model_type": "llama"} | ({} if settings is None else {"quantization_config": settings})
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    save_file(tensors, path / "model.safetensors")
    return open_checkpoint(path)


def slowly(codes: Tensor, scales: Tensor, block: tuple[int, int]) -> Tensor:
    """Element by element."""
    result = torch.empty(codes.shape)
    for row in range(codes.shape[0]):
        for column in range(codes.shape[1]):
            result[row, column] = codes[row, column].float() * scales[row // block[0], column // block[1]].float()
    return result


def quantised(rows: int, columns: int, seed: int, block: tuple[int, int] = (128, 128)) -> tuple[Tensor, Tensor]:
    """Random fp8 codes, and a scale for each block."""
    codes = (torch.randn(rows, columns, generator=rng(seed)) * 40).to(FP8)
    return codes, torch.rand(-(-rows // block[0]), -(-columns // block[1]), generator=rng(seed + 1)) * 0.01 + 1e-4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(130, 257), (128, 128), (40, 300), (1, 129)])
def test_block_scales_at_widths_that_are_no_multiple_of_the_block(
    shape: tuple[int, int], dtype: torch.dtype, tmp_path: Path
) -> None:
    codes, scales = quantised(*shape, seed=1)
    model = written(tmp_path / "m", {NAME: codes, f"{NAME}_scale_inv": scales}, BLOCKS)
    assert model.names() == [NAME]
    assert model.shape(NAME) == shape
    assert torch.equal(model.read(NAME, dtype), slowly(codes, scales, (128, 128)).to(dtype))


@pytest.mark.parametrize("block", [(128, 128), (1, 32), (64, 16)])
def test_blocks_are_decoded_as_transformers_does(block: tuple[int, int]) -> None:
    codes, scales = quantised(256, 384, seed=2, block=block)
    theirs = Fp8Dequantize(SimpleNamespace())._dequantize_one(codes, scales, torch.float32)
    assert torch.equal(decode_float8(codes, scales, block, torch.float32), theirs)
    exponents = torch.randint(100, 140, scales.shape, generator=rng(3), dtype=torch.uint8)
    theirs = Fp8Dequantize(SimpleNamespace())._dequantize_one(codes, exponents, torch.float32)
    assert torch.equal(decode_float8(codes, exponents, block, torch.float32), theirs)
    powers = exponents.view(torch.float8_e8m0fnu)
    assert torch.equal(decode_float8(codes, powers, block, torch.float32), theirs)


@pytest.mark.parametrize("method", ["fp8", "fbgemm_fp8", "compressed-tensors"])
@pytest.mark.parametrize("shape", [(), (1,), (50,), (50, 1)])
@pytest.mark.parametrize("ending", ["_scale", "_scale_inv"])
def test_one_scale_a_tensor_or_a_row(method: str, shape: tuple[int, ...], ending: str, tmp_path: Path) -> None:
    codes = torch.randn(50, 70, generator=rng(4)).to(FP8)
    scales = torch.rand(shape, generator=rng(5)).bfloat16()
    settings: dict[str, Any] = {"quant_method": method}
    if method == "compressed-tensors":
        weights = {"num_bits": 8, "type": "float", "strategy": "tensor"}
        settings |= {"format": "float-quantized", "config_groups": {"group_0": {"weights": weights}}}
    tensors = {NAME: codes, NAME + ending: scales, "a.input_scale": torch.tensor(0.5), "a.bias": torch.ones(50)}
    model = written(tmp_path / "m", tensors, settings)
    assert model.names() == ["a.bias", NAME]
    rows = scales.float().reshape(-1, 1).expand(50, 1)
    assert torch.equal(model.read(NAME, torch.float32), slowly(codes, rows, (1, 70)))


def test_fused_experts_have_blocks_of_their_own(tmp_path: Path) -> None:
    parts = [quantised(130, 140, seed=seed) for seed in (6, 8, 10)]
    codes, scales = (torch.stack(list(each)) for each in zip(*parts, strict=True))
    name = "mlp.experts.gate_up_proj"
    model = written(tmp_path / "m", {name: codes, f"{name}_scale_inv": scales}, BLOCKS)
    expected = torch.stack([slowly(*part, (128, 128)) for part in parts])
    assert torch.equal(model.read(name, torch.float32), expected)
    one = written(tmp_path / "n", {name: codes, f"{name}_scale_inv": torch.tensor(0.5)}, BLOCKS)
    assert torch.equal(one.read(name, torch.float32), codes.float() * 0.5)


def test_fp8_without_any_scale_is_its_own_value_unless_scales_are_promised(tmp_path: Path) -> None:
    codes = torch.randn(3, 4, generator=rng(12)).to(FP8)
    assert torch.equal(written(tmp_path / "m", {NAME: codes}, None).read(NAME, torch.float32), codes.float())
    with pytest.raises(ModelError, match=r"lacks scales(.|\n)*a\.weight_scale_inv"):
        written(tmp_path / "n", {NAME: codes}, BLOCKS)


def test_scales_that_do_not_fit_are_refused_with_both_shapes(tmp_path: Path) -> None:
    model = written(tmp_path / "m", {NAME: torch.zeros(200, 10).to(FP8), f"{NAME}_scale_inv": torch.ones(3, 1)}, BLOCKS)
    with pytest.raises(ModelError, match=r"\[3, 1\] for a weight \[200, 10\].*\[2, 1\]"):
        model.read(NAME, torch.float32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_mxfp4_is_decoded_as_transformers_does(dtype: torch.dtype, tmp_path: Path) -> None:
    blocks = torch.randint(0, 256, (3, 10, 2, 16), generator=rng(13), dtype=torch.uint8)
    scales = torch.randint(110, 135, (3, 10, 2), generator=rng(14), dtype=torch.uint8)
    name = "mlp.experts.gate_up_proj"
    tensors = {f"{name}_blocks": blocks, f"{name}_scales": scales, f"{name}_bias": torch.ones(3, 10)}
    model = written(tmp_path / "m", tensors, {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]})
    assert model.names() == [name, f"{name}_bias"]
    assert model.shape(name) == (3, 64, 10)
    assert torch.equal(model.read(name, dtype), convert_moe_packed_tensors(blocks, scales, dtype=dtype))


def test_every_code_and_every_exponent_of_mxfp4() -> None:
    """By the formula: (−1)^s · 2^(e−1) · (1 + m/2), or m/2 where e is 0; times 2^(byte − 127)."""
    codes = torch.arange(16, dtype=torch.uint8)
    magnitudes = [m / 2 if e == 0 else 2.0 ** (e - 1) * (1 + m / 2) for e in range(4) for m in range(2)]
    values = [*magnitudes, *(-value for value in magnitudes)]
    blocks = torch.stack((codes | (codes << 4),) * 255)[:, None, :]
    powers = torch.arange(255, dtype=torch.uint8)
    found = decode_mxfp4(blocks, powers[:, None], torch.float64)
    for byte in range(255):
        # In float32, whose end the largest of them pass: no weight is as large.
        expected = torch.tensor([value * 2.0 ** (byte - 127) for value in values for _ in range(2)]).double()
        assert torch.equal(found[byte], expected)


@pytest.mark.parametrize(
    ("scales", "problem"),
    [
        (torch.full((2, 5, 1), 255, dtype=torch.uint8), r"320 of the 320 values of experts\.w are NaN or infinite"),
        (torch.full((2, 5, 1), 127.0), r"experts\.w cannot be decoded: the scales of MXFP4 are float32"),
        (torch.full((2, 5, 1), 127, dtype=torch.int64), r"experts\.w cannot be decoded: .*int64; they must be uint8"),
        (torch.full((2, 4, 1), 127, dtype=torch.uint8), r"experts\.w cannot be decoded: .* do not fit each other"),
    ],
)
def test_scales_of_mxfp4_that_cannot_be_are_refused_by_the_weight(tmp_path: Path, scales: Tensor, problem: str) -> None:
    blocks = torch.randint(0, 256, (2, 5, 1, 16), dtype=torch.uint8, generator=rng(8))
    tensors = {"experts.w_blocks": blocks, "experts.w_scales": scales}
    with pytest.raises(ModelError, match=problem):
        written(tmp_path, tensors, {"quant_method": "mxfp4"}).read("experts.w", torch.float32)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"quant_method": "gptq", "bits": 4}, "gptq"),
        ({"quant_method": "awq"}, "awq"),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "modelopt"),
        (
            {
                "quant_method": "compressed-tensors",
                "format": "pack-quantized",
                "config_groups": {"g": {"weights": {"num_bits": 4, "type": "int", "strategy": "group"}}},
            },
            "compressed-tensors.*int, 4 bits, group",
        ),
        ({"quant_method": "compressed-tensors", "format": "marlin-24"}, "marlin-24"),
    ],
)
def test_what_is_not_read_is_refused_by_name(settings: dict[str, Any], named: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=named):
        written(tmp_path / "m", {NAME: torch.ones(2, 2)}, settings)


def test_a_model_in_fp8_is_the_decoded_model_under_lora_and_under_qlora(tmp_path: Path) -> None:
    tiny_llama(1, {"hidden_size": 192, "intermediate_size": 136}).save_pretrained(tmp_path / "plain")
    plain = open_checkpoint(tmp_path / "plain")
    tensors, decoded = {}, {}
    for name in plain.names():
        weight = decoded[name] = plain.read(name, torch.float32)
        tensors[name] = weight
        if "_proj" in name:
            _, scales = quantised(*weight.shape, seed=20)
            wide = scales.repeat_interleave(128, 0).repeat_interleave(128, 1)[: len(weight), : weight.shape[1]]
            tensors[name], tensors[f"{name}_scale_inv"] = (weight / wide / 50).to(FP8), scales
            decoded[name] = slowly(tensors[name], scales, (128, 128))
    stored = dict(plain.config) | {"quantization_config": BLOCKS}
    (tmp_path / "fp8").mkdir()
    (tmp_path / "fp8" / "config.json").write_text(json.dumps(stored), encoding="utf-8")
    save_file(tensors, tmp_path / "fp8" / "model.safetensors")
    model = load_model(open_checkpoint(tmp_path / "fp8"), Loading(dtype=torch.float32))
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, decoded[name])
    quant = QuantSection()
    packed = load_model(
        open_checkpoint(tmp_path / "fp8"), Loading(form=WeightForm.QUANTIZED, dtype=torch.float32, quant=quant)
    ).get_submodule("model.layers.0.mlp.up_proj")
    expected = QuantLinear.from_weight(decoded["model.layers.0.mlp.up_proj.weight"])
    assert isinstance(packed, QuantLinear)
    assert torch.equal(packed.codes, expected.codes)
    assert torch.equal(packed.dequantize(torch.float32), expected.dequantize(torch.float32))


@pytest.mark.parametrize("shape", [(), (4,), (2, 2, 2, 2)])
def test_fp8_of_another_rank_is_refused_by_name_and_shape(shape: tuple[int, ...], tmp_path: Path) -> None:
    model = written(tmp_path / "m", {NAME: torch.ones(shape).to(FP8), f"{NAME}_scale": torch.ones(1)}, BLOCKS)
    with pytest.raises(ModelError, match=re.escape(f"a.weight cannot be decoded: fp8 codes of shape {list(shape)}")):
        model.read(NAME, torch.float32)


@pytest.mark.parametrize("shape", [(), (4,)])
def test_mxfp4_without_groups_is_refused_by_name_and_shape(shape: tuple[int, ...], tmp_path: Path) -> None:
    tensors = {f"{NAME}{end}": torch.ones(shape, dtype=torch.uint8) for end in ("_blocks", "_scales")}
    with pytest.raises(ModelError, match=re.escape(f"the MXFP4 blocks a.weight_blocks have shape {list(shape)}")):
        written(tmp_path / "m", tensors, None)


def test_mxfp4_of_any_rank_and_of_no_elements_is_decoded_or_refused(tmp_path: Path) -> None:
    for number, shape in enumerate([(2,), (3, 2), (2, 0, 1), (1, 2, 1, 1), (0,)]):
        tensors = {
            f"{NAME}_blocks": torch.zeros(*shape, 16, dtype=torch.uint8),
            f"{NAME}_scales": torch.full(shape, 127, dtype=torch.uint8),
        }
        model = written(tmp_path / str(number), tensors, None)
        assert tuple(model.read(NAME, torch.float32).shape) == model.shape(NAME)
        tensors[f"{NAME}_scales"] = torch.tensor(127, dtype=torch.uint8)
        with pytest.raises(ModelError, match="do not fit each other"):
            written(tmp_path / f"{number} damaged", tensors, None).read(NAME, torch.float32)
