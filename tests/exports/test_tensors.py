from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from veneer.errors import ModelError
from veneer.exports.certificate import TensorReport
from veneer.exports.tensors import ExpectedTensor, MemoryTensors, ModelTensors, compare_tensors, relative_error
from veneer.io.checkpoint import open_checkpoint
from veneer.quant.four_bit import QuantLinear
from veneer.quantization import quantize


def test_every_kind_of_damage_to_a_tensor_is_named() -> None:
    whole = {name: torch.randn(8, 4, generator=torch.Generator().manual_seed(n)) for n, name in enumerate("abcdef")}
    exact = [ExpectedTensor(name, tensor, tensor) for name, tensor in whole.items()]
    assert compare_tensors(exact, MemoryTensors(dict(whole)), 0.0) == TensorReport(6, "a", 0.0)
    found = {**whole, "a": whole["a"] * 1.001, "b": whole["c"], "c": whole["b"], "e": whole["e"][:4], "x": whole["a"]}
    found["f"] = whole["f"].clone()
    found["f"][2, 2] = math.nan
    del found["d"]
    report = compare_tensors(exact, MemoryTensors(found), 0.0)
    assert [problem.split(":")[0] for problem in report.problems] == ["a", "b", "c", "d", "e", "f", "x"]
    for part, problem in zip(
        ("off by 0.1 %", "off by", "off by", "missing", "shape [4, 4]", "1 of its 32 numbers are NaN", "should not be"),
        report.problems,
        strict=True,
    ):
        assert part in problem


def test_values_of_a_rounding_format_are_those_that_it_holds_or_as_good() -> None:
    exact = torch.randn(8, 64, generator=torch.Generator().manual_seed(0))
    written = (exact * 8).round() / 8
    expected = [ExpectedTensor("a", exact, written)]
    error = relative_error(written.double(), exact.double())
    report = compare_tensors(expected, MemoryTensors({"a": written}), 1.5 * error)
    assert (report.problems, report.worst, report.error) == ((), "a", pytest.approx(error))
    assert "are allowed" in compare_tensors(expected, MemoryTensors({"a": written}), 0.5 * error).problems[0]
    nearer, further = written.clone(), written.clone()
    nearer[3] = (written[3] + exact[3]) / 2
    further[3] = written[3] + 0.001 * (written[3] - exact[3])
    assert compare_tensors(expected, MemoryTensors({"a": nearer}), 1.5 * error).problems == ()
    (problem,) = compare_tensors(expected, MemoryTensors({"a": further}), 1.5 * error).problems
    assert problem.endswith("in 1 of its 8 rows")


def test_tensors_of_quantised_files_are_read_decoded(tiny_model: Path, tmp_path: Path) -> None:
    quantize(str(tiny_model), tmp_path / "packed")
    dense = load_file(tiny_model / "model.safetensors")
    found = ModelTensors(open_checkpoint(tmp_path / "packed"))
    assert set(found.names()) == set(ModelTensors(open_checkpoint(tiny_model)).names())
    name = "model.layers.1.mlp.up_proj.weight"
    assert found.shape(name) == tuple(dense[name].shape)
    expected = QuantLinear.from_weight(dense[name]).dequantize(torch.float32)
    assert torch.equal(found.read(name, torch.float32), expected)
    norm = "model.norm.weight"
    assert torch.equal(found.read(norm, torch.float32), dense[norm])
    with pytest.raises(ModelError, match="no such"):
        found.read("no such", torch.float32)


def test_an_error_is_relative_to_the_size_of_what_is_expected() -> None:
    expected = torch.randn(5, 7, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    assert relative_error(1.25 * expected, expected) == pytest.approx(0.25)
    assert relative_error(expected, expected) == 0.0
    zeros = torch.zeros(5, 7, dtype=torch.float64)
    assert relative_error(expected, zeros) == pytest.approx(float(expected.norm()))


def test_a_finer_dtype_than_the_formats_hides_nothing() -> None:
    """Rounded to bfloat16 the values would be the expected ones; whoever loads the file in float32 has others."""
    exact = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    written = exact.bfloat16()
    off = written.float() * (1 + 2**-10)
    assert torch.equal(off.bfloat16(), written)
    expected = [ExpectedTensor("a", exact, written)]
    assert compare_tensors(expected, MemoryTensors({"a": written.float()}), 0.0).problems == ()
    (problem,) = compare_tensors(expected, MemoryTensors({"a": off}), 0.0).problems
    assert problem.startswith("a: is off by 0.0977 %")


def test_a_value_that_is_nearer_to_the_exact_one_is_none_that_an_exact_format_holds() -> None:
    """A scale of NF4 may be another and leave less of an error; what was written it is not."""
    exact = torch.randn(8, 64, generator=torch.Generator().manual_seed(0))
    written = (exact * 8).round() / 8
    nearer = written.clone()
    nearer[3] = (written[3] + exact[3]) / 2
    (problem,) = compare_tensors([ExpectedTensor("a", exact, written)], MemoryTensors({"a": nearer}), 0.0).problems
    assert problem.endswith("in 1 of its 8 rows")
