from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from helpers.models.tiny import run_config
from veneer.errors import CheckpointError
from veneer.reproduction.differences import TensorDifference, environments, first_step, tensors
from veneer.training.folder.lock import Environment, environment


@pytest.fixture(scope="module")
def here() -> Environment:
    return environment(torch.device("cpu"), run_config(Path("-"), Path("-"), Path("-")))


def lock_of(here: Environment) -> dict[str, Any]:
    hardware = {key: getattr(here, key) for key in ("device", "processor", "threads", "kernels", "name")}
    return {"versions": dict(here.versions), "hardware": hardware}


def test_an_equal_machine_has_no_difference(here: Environment) -> None:
    assert environments(lock_of(here), here) == []


def test_whatever_computes_otherwise_is_named(here: Environment) -> None:
    other = replace(
        here, versions={**here.versions, "torch": "0.1", "new": "2"}, threads=here.threads + 1, processor="another",
        name="Another One",
    )  # fmt: skip
    found = environments(lock_of(here), other)
    assert [line.split(":")[0] for line in found] == ["torch", "new", "processor", "threads", "processor's name"]
    assert f"torch: {here.versions['torch']} then, 0.1 now" in found
    assert "new: None then, 2 now" in found


def test_processes_with_parts_of_the_weights_are_the_same_to_rounding_alone(here: Environment) -> None:
    lock = lock_of(here)
    lock["hardware"]["processes"] = 2
    assert environments(lock, here) == [
        "processes: 2 then, each with a part of the weights, 1 now: the same up to rounding"
    ]


def test_tensors_are_compared_element_by_element_the_largest_difference_first(tmp_path: Path) -> None:
    whole = {name: torch.randn(4, 5, generator=torch.Generator().manual_seed(n)) for n, name in enumerate("abcde")}
    other = {name: tensor.clone() for name, tensor in whole.items()}
    other["b"][1, 2] += 0.5
    other["c"].view(-1)[:7] += 0.25
    other["d"] = other["d"].flatten()[:8].clone()
    del other["e"]
    for name, content in (("then", whole), ("now", other)):
        save_file(content, tmp_path / f"{name}.safetensors")
    count, found = tensors(tmp_path / "then.safetensors", tmp_path / "now.safetensors")
    assert count == 5
    assert {one.name for one in found[:2]} == {"d", "e"}
    assert [one.largest for one in found[:2]] == [float("inf")] * 2
    assert [(one.name, one.numbers, one.of) for one in found[2:]] == [("b", 1, 20), ("c", 7, 20)]
    assert found[2].largest == pytest.approx(0.5, abs=1e-6)
    assert tensors(tmp_path / "then.safetensors", tmp_path / "then.safetensors") == (5, [])


def test_a_tensor_that_only_one_has_differs_in_all_of_its_numbers(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(3)}, tmp_path / "then")
    save_file({"b": torch.zeros(7)}, tmp_path / "now")
    inf = float("inf")
    count, found = tensors(tmp_path / "then", tmp_path / "now")
    assert count == 2
    assert sorted(found, key=lambda one: one.name) == [
        TensorDifference("a", 3, 3, inf),
        TensorDifference("b", 7, 7, inf),
    ]


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(3)}, tmp_path / "then")
    (tmp_path / "now").write_bytes(b"x")
    with pytest.raises(CheckpointError, match="cannot be compared"):
        tensors(tmp_path / "then", tmp_path / "now")


def write_events(folder: Path, losses: dict[int, float]) -> Path:
    folder.mkdir()
    told = {"event": "StepDone", "seconds": 1.0, "memory_mb": 1.0}
    lines = [json.dumps({**told, "step": step, "loss": loss}) for step, loss in losses.items()]
    (folder / "events.jsonl").write_text("".join(f"{line}\n" for line in lines))
    return folder


def test_the_first_step_that_went_otherwise(tmp_path: Path) -> None:
    then = write_events(tmp_path / "then", {1: 3.0, 2: 2.5, 3: 2.0, 4: 1.5})
    assert first_step(then, write_events(tmp_path / "equal", {1: 3.0, 2: 2.5})) is None
    assert first_step(then, write_events(tmp_path / "other", {1: 3.0, 3: 2.25, 4: 1.25, 9: 0.0})) == 3
