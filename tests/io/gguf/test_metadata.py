from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from veneer.errors import ModelError
from veneer.io.gguf.metadata import Metadata, Presence, Setting, shortest

FILE = Path("m.gguf")


def metadata(**values: Any) -> Metadata:
    return Metadata(FILE, {f"llama.{name}": value for name, value in values.items()}, "llama")


@given(st.none() | st.booleans() | st.integers(-3, 9) | st.floats(0, 9) | st.text(max_size=2))
def test_a_whole_number_is_in_its_range_or_refused_by_its_key(value: Any) -> None:
    if type(value) is int and 2 <= value <= 5:
        assert metadata(count=value).integer("count", least=2, most=5) == value
    else:
        broken = "from 2 to 5" if type(value) is int and value > 5 else "≥ 2"
        with pytest.raises(
            ModelError, match=rf"m\.gguf: the metadata key llama\.count is .*a whole number {broken} is"
        ):
            metadata(count=value).integer("count", least=2, most=5)
    assert metadata().integer("count", 3) == 3


@given(st.none() | st.booleans() | st.integers(-3, 9) | st.floats() | st.text(max_size=2))
def test_a_number_is_positive_and_finite_or_refused(value: Any) -> None:
    if isinstance(value, int | float) and not isinstance(value, bool) and 1e-30 < value < 1e30:
        assert metadata(eps=value).real("eps") == pytest.approx(value, rel=1e-6)
    elif not isinstance(value, float):
        with pytest.raises(ModelError, match="a positive number is needed"):
            metadata(eps=value).real("eps")


@given(st.decimals("1e-6", "1e6", places=4))
def test_a_decimal_that_was_stored_in_float32_comes_back(value: Any) -> None:
    """Up to six digits are kept by float32."""
    given_ = float(f"{float(value):.6g}")
    assert shortest(float(np.float32(given_))) == given_


def test_tokens_are_numbers_or_absent() -> None:
    values = {"tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.eos_token_id": -1, "tokenizer.ggml.pad_token_id": "0"}
    read = Metadata(FILE, values, "llama")
    assert (read.token("bos"), read.token("unknown")) == (1, None)
    for role in ("eos", "pad"):
        with pytest.raises(ModelError, match=f"{role}_token_id"):
            read.token(role)


@pytest.mark.parametrize("kind", [int, float])
def test_a_setting_is_read_as_it_was_written(kind: type) -> None:
    setting = Setting("theirs", "ours", kind)
    for value in (1, 7, 4096):
        written = setting.write({"theirs": kind(value)})
        assert setting.read(metadata(**written)) == {"theirs": value}
        assert type(written["ours"]) is kind


@pytest.mark.parametrize("value", [None, 0, -1.5, True, "8", float("inf"), float("nan")])
def test_a_setting_that_llama_cpp_cannot_take_is_refused(value: Any) -> None:
    with pytest.raises(ModelError, match=r"theirs is .*GGUF needs a number above 0 there"):
        Setting("theirs", "ours", float).write({"theirs": value})
    with pytest.raises(ModelError, match=r"theirs is 2\.5"):
        Setting("theirs", "ours", int).write({"theirs": 2.5})


def test_what_may_be_missing_is_null_and_what_is_assumed_is_taken() -> None:
    optional = Setting("theirs", "ours", float, Presence.OPTIONAL)
    assert optional.write({"theirs": None}) == optional.write({}) == {}
    assert optional.read(metadata()) == {"theirs": None}
    assert Setting("theirs", "ours", int, assumed=4096).read(metadata()) == {"theirs": 4096}
    with pytest.raises(ModelError, match=r"llama\.ours is None"):
        Setting("theirs", "ours", int).read(metadata())
