"""A sweep and a comparison on a cluster: the results of one machine, also where a node is lost on the way."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from helpers.processes.invoking import invoke
from helpers.processes.ray_nodes import Nodes
from helpers.run_folders.run_logs import read_events
from veneer.errors import VeneerError
from veneer.events import Event, RunFailed
from veneer.io.locks import exclusive
from veneer.ray.cluster import Cluster, Done, TaskFolder
from veneer.ray.runs import TaskTrainer, train_point
from veneer.sweeps.grid import points


def sweep(model: Path, data: Path, output: Path, *more: object) -> dict[str, bytes]:
    """The adapters of a sweep, by point."""
    result = invoke(
        "sweep", "--model", model, "--data", data, "--output", output, "--method", "lora", "--device", "cpu",
        "--set", "compute.threads=1", "--set", "lora.dropout=0.1", "--json", *more,
    )  # fmt: skip
    assert result.exit_code == 0, (result.output, result.exception)
    return {path.parent.name: path.read_bytes() for path in output.glob("*/adapter_model.safetensors")}


@pytest.mark.slow
def test_a_sweep_on_two_nodes_makes_the_points_of_one_machine(
    two_nodes: Nodes, tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    more = ("--grid", "lora.rank=2,4,3", "--set", "train.steps=3")
    here = sweep(tiny_model, tiny_data, tmp_path / "here", *more)
    there = sweep(tiny_model, tiny_data, tmp_path / "there", *more, "--on", two_nodes.address)
    assert there == here
    assert len(here) == 3
    tables = [json.loads((tmp_path / name / "results.json").read_text()) for name in ("here", "there")]
    losses = [[(one["name"], one["train_loss"]) for one in table] for table in tables]
    assert losses[0] == losses[1]
    # Asked for again, nothing is left to do.
    assert sweep(tiny_model, tiny_data, tmp_path / "there", *more, "--on", two_nodes.address) == here


@pytest.mark.slow
def test_a_sweep_that_loses_a_node_makes_the_same_points(tiny_model: Path, tiny_data: Path, tmp_path: Path) -> None:
    more = ("--grid", "lora.rank=2,4,3", "--set", "train.steps=400", "--set", "train.save_every=10")
    here = sweep(tiny_model, tiny_data, tmp_path / "here", *more)
    output = tmp_path / "there"

    def steps() -> list[int]:
        events = [read_events(path) for path in output.glob("*/events.jsonl")]
        return [sum(one["event"] == "StepDone" for one in some) for some in events]

    with Nodes(2) as nodes:

        def lose_a_node() -> None:
            while sorted(steps())[-2:-1] < [25]:  # until two points are on their way, one on each node
                time.sleep(0.05)
            nodes.lose()
            lost.set()

        lost = threading.Event()
        threading.Thread(target=lose_a_node, daemon=True).start()
        there = sweep(tiny_model, tiny_data, output, *more, "--on", nodes.address)
        assert lost.is_set()
    assert there == here
    starts = [
        [one["resumed_at"] for one in read_events(path) if one["event"] == "RunStarted"]
        for path in sorted(output.glob("*/events.jsonl"))
    ]
    assert sorted(map(len, starts)) == [1, 1, 2], starts  # one point was begun again
    (again,) = [found for found in starts if len(found) == 2]
    assert again[1] >= 20  # and went on from its newest checkpoint


class Here(Cluster):
    """A cluster whose tasks are done in this process, one after another."""

    def each(
        self,
        function: Callable[[Any], Any],
        arguments: Sequence[Any],
        names: Sequence[str],
        done: Done,
        *,
        threads: int | None = None,
    ) -> None:
        for number, argument in enumerate(arguments):
            try:
                result = function(argument)
            except VeneerError as error:
                result = error
            done(number, result)


def test_points_that_cannot_be_trained_are_named_and_the_others_are_trained(
    tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    values = {"model": str(tiny_model), "method": "lora", "train": {"steps": 1}, "compute": {"device": "cpu"}}
    grid = {"data.file": [str(tiny_data), "nowhere.jsonl"]}
    found = points(values, grid, tmp_path)
    told: list[Event] = []
    with pytest.raises(VeneerError, match=r"1 of 2 points could .*:\n  - 02-[^:]*: (?!02-).*nowhere\.jsonl"):
        TaskTrainer(Here(TaskFolder(tmp_path, ""), [{"CPU": 1.0}]))(found, told.append, lambda some: None)
    assert [path.parent.name for path in tmp_path.glob("*/adapter_model.safetensors")] == [found[0].name]
    assert [one.run for one in told if isinstance(one, RunFailed)] == [found[1].name]


def test_points_are_planned_with_their_share_of_a_nodes_memory(
    tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    values = {"model": str(tiny_model), "data": {"file": str(tiny_data)}, "train": {"steps": 1}, "method": "lora"}
    values["compute"] = {"device": "cpu", "threads": 2}
    found = points(values, {"lora.rank": [2]}, tmp_path)
    nodes = Here(TaskFolder(tmp_path, ""), [{"CPU": 2.0}, {"CPU": 4.0}])
    TaskTrainer(nodes)(found, lambda event: None, lambda some: None)
    told = [one for one in read_events(Path(found[0].config.output) / "events.jsonl") if one["event"] == "Note"]
    assert any("for one of 2 processes" in one["message"] for one in told)


def test_a_task_waits_for_the_process_that_had_its_folder(
    tiny_model: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = {"model": str(tiny_model), "data": {"file": str(tiny_data)}, "train": {"steps": 1}, "method": "lora"}
    (point,) = points(values, {"lora.rank": [2]}, tmp_path)
    folder = Path(point.config.output)
    folder.mkdir()
    ended = threading.Event()

    def hold() -> None:
        with exclusive(folder):
            held.set()
            time.sleep(0.5)
            ended.set()

    held = threading.Event()
    threading.Thread(target=hold).start()
    held.wait()
    train_point(point)
    assert ended.is_set()
    assert (folder / "adapter_model.safetensors").is_file()


@pytest.mark.slow
def test_a_comparison_on_two_nodes_has_the_results_of_one_machine(
    two_nodes: Nodes, tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    found = {}
    for name, more in (("here", ()), ("there", ("--on", two_nodes.address))):
        result = invoke(
            "compare", "--model", tiny_model, "--data", tiny_data, "--methods", "lora,qlora", "--seeds", 1,
            "--max-new-tokens", 4, "--set", "train.steps=2", "--set", "compute.threads=1", "--set",
            "compute.device=cpu", "--json", "--output", tmp_path / name, *more,
        )  # fmt: skip
        assert result.exit_code == 0, (result.output, result.exception)
        outcomes = json.loads((tmp_path / name / "compare.json").read_text())["outcomes"]
        found[name] = [(one["method"], one["seed"], one["metrics"]) for one in outcomes]
    assert found["there"] == found["here"]
    assert len(found["here"]) == 3
