"""A grid is read from the command line, and its points are checked all at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from veneer.errors import ConfigError
from veneer.sweeps.grid import check_settings, parse_grid, plain_grid, points


def test_a_grid_from_the_command_line() -> None:
    grid = parse_grid(
        ["lora.rank=4,16", "train.learning_rate=1e-4, auto", "lora.target_modules=[q_proj, v_proj],all-linear"]
    )
    assert grid["lora.rank"] == [4, 16]
    assert grid["train.learning_rate"] == [1e-4, "auto"]
    assert grid["lora.target_modules"] == [["q_proj", "v_proj"], "all-linear"]
    with pytest.raises(ConfigError) as error:
        parse_grid(["lora.rank", "train.seed=1", "train.seed=2", "lora.alpha=3,3"])
    assert all(text in str(error.value) for text in ("'lora.rank'", "train.seed: given twice", "lora.alpha"))
    with pytest.raises(ConfigError, match=r"'lora\.rank=\[4': not valid YAML(.|\n)*train\.seed: given twice"):
        parse_grid(["lora.rank=[4", "train.seed=1", "train.seed=2"])
    with pytest.raises(ConfigError, match="nothing is varied"):
        parse_grid([])


def test_sets_are_sorted_lists() -> None:
    grid = plain_grid({"lora.target_modules": [{"v_proj", "q_proj", "k_proj"}, ["o_proj", "k_proj"]]})
    assert grid == {"lora.target_modules": [["k_proj", "q_proj", "v_proj"], ["o_proj", "k_proj"]]}


def test_points_that_are_no_configuration_are_all_named(values: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        points(values, {"lora.rank": [4, 0], "train.seed": [0, -1]}, tmp_path)
    assert "02-rank=4,seed=-1" in str(error.value)
    assert "03-rank=0,seed=0" in str(error.value)
    assert "01-" not in str(error.value)
    with pytest.raises(ConfigError, match=r"02-best_metric=rewards_margins: .*possible are loss, exact"):
        points(values, {"train.best_metric": ["exact", "rewards/margins"]}, tmp_path)
    with pytest.raises(ConfigError, match="has its own folder"):
        points(values, {"output": ["a", "b"]}, tmp_path)
    with pytest.raises(ConfigError, match=r"lora\.rank: no value is given"):
        points(values, {"lora.rank": [], "train.seed": [0]}, tmp_path)
    with pytest.raises(ConfigError, match="nothing is varied"):
        points(values, {}, tmp_path)
    with pytest.raises(ConfigError, match=r"lora\.rank: a value is given twice"):
        points(values, {"lora.rank": [2, 4, 2.0]}, tmp_path)


def test_a_key_and_the_section_that_it_is_a_part_of_cannot_both_be_given(
    values: dict[str, Any], tmp_path: Path
) -> None:
    grid = {"lora.rank": [2, 8], "lora": [{"rank": 4}]}
    with pytest.raises(ConfigError, match=r"lora\.rank: it is a part of lora, which is varied too"):
        points(values, grid, tmp_path)
    with pytest.raises(ConfigError, match=r"lora\.alpha"):
        check_settings({"lora": [{"rank": 4}]}, ["lora.alpha"])
    check_settings({"lora.rank": [4]}, ["lora"])


def test_a_key_that_is_varied_and_set_is_refused() -> None:
    grid = {"lora.rank": [4, 8], "train.seed": [0, 1]}
    check_settings(grid, ["lora.alpha", "data.file"])
    with pytest.raises(ConfigError) as error:
        check_settings(grid, ["train.seed", "lora.alpha", "lora.rank"])
    assert all(key in str(error.value) for key in ("train.seed", "lora.rank"))
    assert "lora.alpha" not in str(error.value)
