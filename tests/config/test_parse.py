"""What is written is read back equal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from helpers.training.run_values import refusal, values
from veneer.config import parse, to_yaml
from veneer.config.values import override, read_yaml
from veneer.errors import ConfigError


@pytest.mark.parametrize("text", ["1e-4", "1E-4", "0.0001"])
def test_a_rate_may_be_written_in_any_way(text: str) -> None:
    config = parse(override(values(), [f"train.learning_rate={text}"]), where="x")
    assert config.train.learning_rate == 1e-4


def test_a_name_that_reads_like_a_number_stays_a_name() -> None:
    assert parse(override(values(), ["model=1e5"]), where="x").model == "1e5"


def test_a_key_through_a_plain_value_is_refused() -> None:
    with pytest.raises(ConfigError, match="'model' is a value, not a section"):
        override(values(), ["model.name=x"])
    assert "- lora: " in refusal(override(values(), ["lora=5"]))
    assert "- lora.rank: " in refusal(override(values(), ["lora.rank.x=5"]))


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "method": st.sampled_from(["lora", "qlora", "full"]),
            "revision": st.text(min_size=1),
            "lora": st.fixed_dictionaries(
                {},
                optional={
                    "rank": st.integers(1, 2**16),
                    "alpha": st.floats(1e-300, 1e300),
                    "dropout": st.floats(0, 1, exclude_max=True),
                    "target_modules": st.one_of(st.text(), st.lists(st.text(), max_size=3)),
                },
            ),
            "train": st.fixed_dictionaries(
                {},
                optional={
                    "learning_rate": st.one_of(st.just("auto"), st.floats(1e-12, 1e3)),
                    "epochs": st.floats(1e-3, 1e3),
                    "seed": st.integers(0, 2**31 - 1),
                    "schedule": st.sampled_from(["cosine", "linear", "constant"]),
                },
            ),
        },
    )
)
def test_what_is_written_is_read_back_equal(sections: dict[str, Any]) -> None:
    config = parse(values(**sections), where="x")
    assert parse(yaml.safe_load(to_yaml(config)), where="x") == config


def test_a_file_of_another_encoding_is_called_so(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_bytes("model: m\n".encode("utf-16"))
    with pytest.raises(ConfigError, match=r"run.yaml: byte 1 is not UTF-8; save the file as UTF-8"):
        read_yaml(file)


def test_awkward_text_survives_the_round_trip(tmp_path: Path) -> None:
    for text in ("yes", "null", "1e-4", "0x10", "C:\\dir", "a: b", "ü 文 ", "#x", "'\"", "line\nbreak", "~", "*a"):
        config = parse(values(revision=text), where="x")
        path = tmp_path / "config.yaml"
        path.write_bytes(to_yaml(config).encode())
        assert parse(read_yaml(path), where="x") == config
