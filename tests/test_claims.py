"""Folders that hold what another command has made, and the base model's, are not written into."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from itertools import permutations
from pathlib import Path

import pytest

from helpers.models.tiny import run_config, tree, write_model
from veneer.comparison.request import CompareRequest
from veneer.comparison.rows import prepare_rows
from veneer.comparison.run import compare_alone
from veneer.errors import OutputError
from veneer.events import ignore
from veneer.sweeps.run import sweep
from veneer.training.run import train

Command = Callable[[Path], object]
KINDS = ("run", "sweep", "comparison")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("base") / "model")


@pytest.fixture(scope="module")
def commands(model: Path, tiny_data: Path) -> dict[str, Command]:
    """What writes a result of each kind into a folder."""

    def run(folder: Path) -> None:
        train(run_config(model, tiny_data, folder, "train.steps=1"))

    def points(folder: Path) -> None:
        values = run_config(model, tiny_data, folder, "train.steps=1").model_dump(mode="json", exclude={"output"})
        sweep(values, {"lora.rank": [2]}, folder)

    return {
        "run": run,
        "sweep": points,
        "comparison": lambda folder: compare_alone(comparison(model, tiny_data, folder), ignore),
    }


def comparison(model: Path, data: Path, folder: Path) -> CompareRequest:
    return CompareRequest(model=str(model), data=str(data), output=str(folder), seeds=1)


@pytest.fixture(scope="module")
def results(
    commands: dict[str, Command], model: Path, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """A folder of each kind; the comparison has only begun."""
    folders = {kind: tmp_path_factory.mktemp("results") / kind for kind in KINDS}
    for kind in ("run", "sweep"):
        commands[kind](folders[kind])
    folders["comparison"].mkdir()
    prepare_rows(comparison(model, tiny_data, folders["comparison"]), folders["comparison"], ignore)
    return folders


@pytest.mark.parametrize(("kind", "other"), permutations(KINDS, 2))
def test_a_folder_of_another_commands_results_is_refused(
    kind: str, other: str, commands: dict[str, Command], results: dict[str, Path]
) -> None:
    with pytest.raises(OutputError, match=rf"{other} holds a {other} \(see"):
        commands[kind](results[other])


@pytest.mark.parametrize("kind", KINDS)
def test_the_folder_of_the_base_model_is_refused_and_left_as_it_is(
    kind: str, commands: dict[str, Command], model: Path
) -> None:
    before = tree(model)
    with pytest.raises(OutputError, match="is the folder of the base model"):
        commands[kind](model)
    assert tree(model) == before


def test_a_sweep_goes_on_in_its_own_folder(commands: dict[str, Command], results: dict[str, Path]) -> None:
    before = tree(results["sweep"])
    commands["sweep"](results["sweep"])
    assert tree(results["sweep"]) == before


def test_a_sweep_whose_record_is_damaged_is_refused(
    commands: dict[str, Command], results: dict[str, Path], tmp_path: Path
) -> None:
    shutil.copytree(results["sweep"], tmp_path / "sweep")
    (tmp_path / "sweep" / "sweep.json").write_text("{")
    with pytest.raises(OutputError, match="as it is; put it back from a copy if it was damaged"):
        commands["sweep"](tmp_path / "sweep")
