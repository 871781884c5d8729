"""`veneer combine`: an adapter is written, and never over another; what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from click.testing import CliRunner

from helpers.adapters.saved_adapters import their_adapters
from helpers.models.tiny import run_config, write_model
from helpers.processes.invoking import invoke, refused
from helpers.tensors import assert_same_tensors
from veneer.adapters.arithmetic import CombinationType
from veneer.adapters.combine import Combination, WeightedAdapter, combine_adapters
from veneer.adapters.files.origin import BASE_FILE, read_base
from veneer.adapters.files.store import read_tensors
from veneer.cli import main
from veneer.commands.combine import KINDS
from veneer.training.run import train


def test_the_command_writes_an_adapter_and_never_over_one(tmp_path: Path) -> None:
    their_adapters(tmp_path, [{}] * 2)
    one, two, output = tmp_path / "first", tmp_path / "second", tmp_path / "sum"
    arguments = ["combine", "--adapter", f"{one}=0.5", "--adapter", str(two), "--kind", "ties", "--density", "0.5"]
    done = CliRunner().invoke(main, [*arguments, "--output", str(output), "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["rank"] == 4
    how = Combination(kind=CombinationType.TIES, density=0.5)
    expected = combine_adapters([WeightedAdapter.read(one, 0.5), WeightedAdapter.read(two)], how).tensors()
    found = read_tensors(output)
    assert_same_tensors(found, expected)
    before = (output / "adapter_model.safetensors").read_bytes()
    assert CliRunner().invoke(main, [*arguments, "--output", str(output)]).exit_code == 2
    assert (output / "adapter_model.safetensors").read_bytes() == before
    for wrong in (f"{one}=much", str(one)):
        assert (
            CliRunner().invoke(main, [*arguments, "--adapter", wrong, "--output", str(tmp_path / "x")]).exit_code == 2
        )
    assert not (tmp_path / "x").exists()


def test_the_command_knows_every_kind() -> None:
    assert set(KINDS.choices) == {kind.value for kind in CombinationType}


def test_a_weight_that_is_not_finite_is_refused(adapter: Path, tmp_path: Path) -> None:
    message = refused("combine", "--adapter", f"{adapter}=nan", "--output", tmp_path / "out")
    assert "write it as DIR or DIR=WEIGHT" in message


def test_adapters_of_different_bases_are_combined_only_if_that_is_asked_for(
    adapter: Path, tiny_data: Path, tmp_path: Path
) -> None:
    base = write_model(tmp_path / "other", seed=5)
    other = train(run_config(base, tiny_data, tmp_path / "run", "train.steps=1")).output
    argv = ["combine", "--adapter", adapter, "--adapter", other, "--output", tmp_path / "sum"]
    message = refused(*argv)
    for part in ("different base models", f"{other}: model.safetensors: has other content", "--allow-other-base"):
        assert part in message
    assert not (tmp_path / "sum").exists()
    done = invoke(*argv, "--allow-other-base", "--json")
    assert done.exit_code == 0
    assert "different base models" in done.stderr
    assert "different base models" in json.loads(done.stdout)["warnings"][0]
    assert not (tmp_path / "sum" / BASE_FILE).exists()


def test_the_base_of_what_is_combined_is_that_of_its_parts(adapter: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(adapter, tmp_path / "copy")
    assert invoke("combine", "--adapter", adapter, "--adapter", copy, "--output", tmp_path / "sum").exit_code == 0
    assert read_base(tmp_path / "sum") == read_base(adapter) != {}
