"""NaN and infinite weights are refused by the tensor's name, wherever they stand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from veneer.enums import Scheme
from veneer.errors import ModelError
from veneer.io.checkpoint import open_checkpoint
from veneer.io.finite import check_finite
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


def test_a_number_that_only_the_wanted_dtype_lacks_is_no_damage(tmp_path: Path) -> None:
    files = open_checkpoint(model(tmp_path / "m", {"w": torch.tensor([1e5, 1.0])}))
    assert files.read("w", torch.float16).tolist() == [float("inf"), 1.0]


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
