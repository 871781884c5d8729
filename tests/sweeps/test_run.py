"""A sweep is one command: every point a normal run, trained together where it may be, and never twice."""

from __future__ import annotations

import json
import re
import shutil
import signal
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

from helpers.models.tiny import CommandLine, rows, tree, write_model, write_rows
from helpers.processes.ctrl_c import pressed_after
from helpers.rows.preference_rows import pairs
from helpers.tensors import assert_same_tensors
from veneer.cli import main
from veneer.config import parse
from veneer.config.values import read_yaml
from veneer.enums import Method
from veneer.errors import DataError, Interrupted, OutputError
from veneer.events import Evaluated, Event, Note, Result, RunDone, RunEvent, RunsJoined, StepDone
from veneer.sweeps import run as sweep_run
from veneer.sweeps.grid import points
from veneer.sweeps.outcome import best_of
from veneer.sweeps.run import NOT_AGAIN, JointTrainer, sweep
from veneer.training.run import train

GRID: dict[str, list[Any]] = {"lora.rank": [2, 4], "train.learning_rate": [0.001, 0.02]}


def groups_of(events: Sequence[Event]) -> list[list[str]]:
    """Names of the runs that were trained together."""
    return [list(event.runs) for event in events if isinstance(event, RunsJoined)]


def test_every_point_is_a_run_of_its_own(values: dict[str, Any], tmp_path: Path) -> None:
    seen: list[Event] = []
    outcomes = sweep(values, GRID, tmp_path / "sweep", subscribers=[seen.append])
    assert [one.name for one in outcomes] == [
        "01-rank=2,learning_rate=0.001",
        "02-rank=2,learning_rate=0.02",
        "03-rank=4,learning_rate=0.001",
        "04-rank=4,learning_rate=0.02",
    ]
    assert groups_of(seen) == [[one.name for one in outcomes]]
    for one in outcomes:
        steps = [event.event for event in seen if isinstance(event, RunEvent) and event.run == one.name]
        assert [event.step for event in steps if isinstance(event, StepDone)] == [1, 2, 3, 4]
        assert RunDone(run=one.name, before=False) in seen
    assert isinstance(seen[-1], Result)
    assert [point["name"] for point in seen[-1].values["points"]] == [one.name for one in outcomes]
    for one, point in zip(outcomes, points(values, GRID, tmp_path / "alone"), strict=True):
        folder = tmp_path / "sweep" / one.name
        alone = train(point.config)
        assert sorted(p.name for p in folder.iterdir()) == sorted(p.name for p in alone.output.iterdir())
        expected, found = (load_file(path / "adapter_model.safetensors") for path in (alone.output, folder))
        assert all(float((found[name] - tensor).abs().max()) < 1e-6 for name, tensor in expected.items())
        assert (one.state, one.steps, one.best_step) == ("complete", 4, alone.progress.best_step)
        assert one.best_loss == pytest.approx(alone.progress.best_loss, rel=1e-5)
        recorded = parse(read_yaml(folder / "config.yaml"), where="the point")
        assert recorded.lora.rank == one.settings["lora.rank"]
    best = best_of(outcomes)
    assert best is not None
    assert best.best_loss == min(one.best_loss or 9 for one in outcomes)
    assert [one["name"] for one in json.loads((tmp_path / "sweep" / "results.json").read_text())] == [
        one.name for one in outcomes
    ]
    ElementTree.parse(tmp_path / "sweep" / "results.svg")


def test_points_of_a_metric_are_compared_by_it(values: dict[str, Any], tmp_path: Path) -> None:
    data = write_rows(tmp_path / "pairs.jsonl", pairs(20))
    values |= {"objective": "orpo", "data": {"file": str(data), "held_out": 0.3}}
    values["train"] |= {"best_metric": "rewards/chosen", "learning_rate": 0.01}
    seen: list[Event] = []
    outcomes = sweep(values, {"lora.rank": [2, 4]}, tmp_path / "sweep", subscribers=[seen.append])
    for one in outcomes:
        told = [e.event for e in seen if isinstance(e, RunEvent) and e.run == one.name]
        assert one.best_value == max(e.metrics["rewards/chosen"] for e in told if isinstance(e, Evaluated))
    best = max(outcomes, key=lambda one: one.best_value or -9)
    assert best_of(outcomes) is best
    assert isinstance(seen[-1], Result)
    assert seen[-1].values["best"] == best.name
    assert [point["best_by"] for point in seen[-1].values["points"]] == ["rewards/chosen"] * 2


def test_a_sweep_that_was_stopped_goes_on_and_trains_nothing_twice(values: dict[str, Any], tmp_path: Path) -> None:
    whole = sweep(values, GRID, tmp_path / "whole", together=2)
    asked = 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        return asked > 8  # in the second group

    with pytest.raises(Interrupted, match="the same command again"):
        sweep(values, GRID, tmp_path / "cut", together=2, stop=stop)
    states = [one["state"] for one in json.loads((tmp_path / "cut" / "results.json").read_text())]
    assert states == ["complete", "complete", "interrupted", "interrupted"]
    before = {name: tree(tmp_path / "cut" / name) for name in (whole[0].name, whole[1].name)}
    seen: list[Event] = []
    sweep(values, GRID, tmp_path / "cut", together=2, subscribers=[seen.append])
    assert [len(group) for group in groups_of(seen)] == [2]
    assert [event.run for event in seen if isinstance(event, RunDone) and event.before] == [
        one.name for one in whole[:2]
    ]
    for one in whole:
        files = [tmp_path / place / one.name / "adapter_model.safetensors" for place in ("whole", "cut")]
        assert files[0].read_bytes() == files[1].read_bytes()
    assert before == {name: tree(tmp_path / "cut" / name) for name in before}
    sweep(values, GRID, tmp_path / "cut", subscribers=[seen.append])
    assert len(groups_of(seen)) == 1


def test_a_signal_leaves_the_table_and_the_same_command_goes_on(
    command_line: CommandLine, tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    output = tmp_path / "sweep"
    argv = ["sweep", "--model", str(tiny_model), "--data", str(tiny_data), "--output", str(output), "--device", "cpu"]
    argv += ["--grid", "train.seed=0,1", "--held-out", "0.2", "--set", "train.steps=400", "--set", "lora.rank=2"]
    log = output / "01-seed=0" / "events.jsonl"
    ended = command_line.run(*argv, when=log, holds='"StepDone"', sent=signal.SIGTERM)
    assert ended.code == 128 + signal.SIGTERM, ended.err
    assert f"the sweep in {output} was stopped; run the same command again to resume it" in " ".join(ended.err.split())
    found = json.loads((output / "results.json").read_text())
    assert [one["state"] for one in found] == ["interrupted"] * 2
    assert all(0 < one["steps"] < 400 for one in found)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_ctrl_c_of_a_script_or_notebook_keeps_the_last_step_and_the_same_call_goes_on(
    method: str, values: dict[str, Any], tmp_path: Path
) -> None:
    """Of points that are trained together, and of one by itself."""
    values["method"], grid = method, {"train.seed": [0, 1]}
    with pytest.raises(KeyboardInterrupt, match="the same command again"), pressed_after(3) as press:
        sweep(values, grid, tmp_path / "cut", subscribers=[press])
    told = [(one["state"], one["steps"]) for one in json.loads((tmp_path / "cut" / "results.json").read_text())]
    assert told == [("interrupted", 3), {"lora": ("interrupted", 3), "full": ("waiting", 0)}[method]]
    for place in ("cut", "whole"):
        assert [one.state for one in sweep(values, grid, tmp_path / place)] == ["complete"] * 2
    files = [sorted((tmp_path / place).glob("*/*model.safetensors")) for place in ("cut", "whole")]
    assert [file.read_bytes() for file in files[0]] == [file.read_bytes() for file in files[1]]


def test_points_that_cannot_share_a_base_come_one_after_another(values: dict[str, Any], tmp_path: Path) -> None:
    seen: list[Event] = []
    grid = {"method": ["lora", "full", "qlora"], "train.seed": [0, 1]}
    values["train"] |= {"steps": 1, "eval_every": 1}
    outcomes = sweep(values, grid, tmp_path, subscribers=[seen.append])
    assert [[name[:2] for name in group] for group in groups_of(seen)] == [["01", "02"], ["03"], ["04"], ["05", "06"]]
    assert all(one.state == "complete" for one in outcomes)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_points_are_planned_with_the_share_of_memory_that_their_process_has(
    method: str, values: dict[str, Any], tmp_path: Path
) -> None:
    """Points that can share a base, and those that cannot."""
    found = points({**values, "method": method}, {"train.seed": [1, 2]}, tmp_path / "sweep")
    events: list[Event] = []
    trainer = JointTrainer(processes=2)
    trainer(found, events.append, lambda points: None)
    told = [one.event.message for one in events if isinstance(one, RunEvent) and isinstance(one.event, Note)]
    plans = [message for message in told if " at the peak, " in message]
    assert len(plans) == 2
    assert all("for one of 2 processes" in message for message in plans)


def test_groups_are_as_large_as_the_memory_allows(
    values: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values["compute"]["memory_limit_mb"] = 10_000
    monkeypatch.setattr(sweep_run, "joint_bytes", lambda runs: 3 * 10**9 * len(runs))
    seen: list[Event] = []
    sweep(values, GRID, tmp_path / "sweep", subscribers=[seen.append])
    assert [len(group) for group in groups_of(seen)] == [3, 1]


def test_values_of_a_grid_may_be_paths_members_of_an_enum_and_numbers_of_numpy(
    values: dict[str, Any], tiny_data: Path, tmp_path: Path
) -> None:
    values["train"] |= {"steps": 1, "eval_every": 1}
    grid: dict[str, Any] = {"method": [Method.LORA], "data.file": [tiny_data], "lora.rank": np.array([2, 4])}
    sweep(values, grid, tmp_path / "sweep")
    found = json.loads((tmp_path / "sweep" / "results.json").read_text())
    plain = {"method": "lora", "data.file": str(tiny_data)}
    assert [one["settings"] for one in found] == [plain | {"lora.rank": rank} for rank in (2, 4)]
    assert [one["state"] for one in found] == ["complete"] * 2


def test_settings_may_be_given_as_a_configuration(values: dict[str, Any], tmp_path: Path) -> None:
    grid = {"lora.rank": [2]}
    config = parse({**values, "output": "unused"}, where="the test")
    given = [sweep(one, grid, str(tmp_path / name)) for name, one in (("values", values), ("config", config))]
    assert given[0][0].state == given[1][0].state == "complete"
    assert given[0][0].final_loss == given[1][0].final_loss


def test_a_sweep_that_goes_on_on_another_day_tells_templates_the_date_of_before(
    values: dict[str, Any], tmp_path: Path
) -> None:
    model = write_model(tmp_path / "dated")
    settings = model / "tokenizer_config.json"
    settings.write_text(settings.read_text().replace("{% for", "{{ strftime_now('%d %b %Y') }} {% for", 1))
    values |= {"model": str(model)}
    grid = {"lora.rank": [2, 4]}
    outcomes = sweep(values, grid, tmp_path / "sweep")
    first, second = (tmp_path / "sweep" / one.name for one in outcomes)
    shutil.rmtree(second)
    for name in ("config.yaml", "run.lock"):
        # As if it had been trained on another day, on which it wrote the same tokens.
        text = (first / name).read_text()
        (first / name).write_text(re.sub(r"20\d\d-\d\d-\d\d", "2024-07-26", text))
    sweep(values, grid, tmp_path / "sweep")
    assert read_yaml(second / "config.yaml")["data"]["template_date"] == "2024-07-26"


def test_a_point_that_diverges_is_told_and_not_tried_again(values: dict[str, Any], tmp_path: Path) -> None:
    values["train"] |= {"clip": 0, "warmup": 0}
    grid = {"train.learning_rate": [0.01, 1e30]}
    outcomes = sweep(values, grid, tmp_path)
    assert [one.state for one in outcomes] == ["complete", "diverged"]
    assert best_of(outcomes) is outcomes[0]
    seen: list[Event] = []
    sweep(values, grid, tmp_path, subscribers=[seen.append])
    assert groups_of(seen) == []
    told = [(event.run, event.event.message) for event in seen if isinstance(event, RunEvent)]
    assert told == [(outcomes[1].name, NOT_AGAIN)]


def test_a_sweep_that_was_refused_keeps_nobody_from_its_folder(
    values: dict[str, Any], tiny_data: Path, tmp_path: Path
) -> None:
    values["train"] |= {"steps": 1, "eval_every": 1}
    with pytest.raises(DataError, match=r"^02-file=misspelt\.jsonl: .*misspelt"):
        sweep(values, {"data.file": [str(tiny_data), "misspelt.jsonl"]}, tmp_path)
    assert [one.state for one in sweep(values, {"data.file": [str(tiny_data)]}, tmp_path)] == ["complete"]


@pytest.mark.parametrize("name", ["sweep.json", "results.json", "results.svg"])
def test_files_of_somebody_else_are_not_replaced(name: str, values: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / name).write_text('{"mine": 1}')
    for _ in range(2):
        with pytest.raises(OutputError, match=f"holds {name}, which no sweep has written"):
            sweep(values, {"lora.rank": [2]}, tmp_path)
    assert (tmp_path / name).read_text() == '{"mine": 1}'


def test_another_sweep_is_not_mixed_in(values: dict[str, Any], tmp_path: Path) -> None:
    values["train"] |= {"steps": 1, "eval_every": 1}
    sweep(values, {"lora.rank": [2]}, tmp_path)
    with pytest.raises(OutputError, match="another sweep"):
        sweep(values, {"lora.rank": [2, 4]}, tmp_path)


def test_points_of_other_weights_of_sources_train_as_each_would_alone(values: dict[str, Any], tmp_path: Path) -> None:
    files = [str(write_rows(tmp_path / f"{name}.jsonl", rows(6, seed=seed))) for seed, name in enumerate("ab")]
    weighed = [
        [{"file": file, "weight": weight} for file, weight in zip(files, weights, strict=True)]
        for weights in ((1, 1), (3, 1))
    ]
    values["data"], values["train"]["eval_every"] = {}, None
    sweep(values, {"data.sources": weighed}, tmp_path / "sweep")
    swept = [load_file(next(tmp_path.glob(f"sweep/0{number}*")) / "adapter_model.safetensors") for number in (1, 2)]
    for number, sources in enumerate(weighed):
        output = tmp_path / f"alone{number}"
        train(parse(values | {"data": {"sources": sources}, "output": str(output)}, where="test"))
        found = load_file(output / "adapter_model.safetensors")
        assert_same_tensors(swept[number], found)
    assert any(not torch.equal(swept[0][name], tensor) for name, tensor in swept[1].items())


def test_points_of_other_rows_are_not_compared(values: dict[str, Any], tmp_path: Path) -> None:
    data = write_rows(tmp_path / "rows.jsonl", rows(12))
    values |= {"data": {"file": str(data)}, "train": {"steps": 1}}
    grid: dict[str, list[Any]] = {"lora.rank": [2, 4]}
    sweep(values, grid, tmp_path / "sweep")
    shutil.rmtree(tmp_path / "sweep" / "02-rank=4")
    before = tree(tmp_path / "sweep")
    write_rows(data, rows(12, seed=1))
    with pytest.raises(OutputError, match=r"01-rank=2: data data.file: has changed(.|\n)*another output folder"):
        sweep(values, grid, tmp_path / "sweep")
    assert tree(tmp_path / "sweep") == before
    write_rows(data, rows(12))
    assert [one.state for one in sweep(values, grid, tmp_path / "sweep")] == ["complete"] * 2


def test_a_point_whose_log_is_lost_is_refused_by_name(values: dict[str, Any], tmp_path: Path) -> None:
    values["train"] |= {"steps": 2, "eval_every": 2}
    grid: dict[str, list[Any]] = {"lora.rank": [2, 4]}
    sweep(values, grid, tmp_path)
    log = tmp_path / "01-rank=2" / "events.jsonl"
    log.write_text("garbage\n", encoding="utf-8")
    before = tree(tmp_path)
    for lock in (False, True):
        if lock:
            (tmp_path / "01-rank=2" / "run.lock").write_text("garbage", encoding="utf-8")
            before = tree(tmp_path)
        with pytest.raises(OutputError, match=r"01-rank=2/events.jsonl lacks 2 of 2 steps(.|\n)*train them again"):
            sweep(values, grid, tmp_path)
        assert tree(tmp_path) == before
    shutil.rmtree(tmp_path / "01-rank=2")
    assert [one.state for one in sweep(values, grid, tmp_path)] == ["complete"] * 2


def test_a_point_whose_adapter_is_gone_is_published_again(values: dict[str, Any], tmp_path: Path) -> None:
    values["train"] |= {"steps": 2, "eval_every": 2}
    grid: dict[str, list[Any]] = {"lora.rank": [2, 4]}
    sweep(values, grid, tmp_path)
    weights = tmp_path / "02-rank=4" / "adapter_model.safetensors"
    before = weights.read_bytes()
    weights.unlink()
    told: list[Event] = []
    assert [one.state for one in sweep(values, grid, tmp_path, subscribers=[told.append])] == ["complete"] * 2
    assert weights.read_bytes() == before
    assert [(one.run, one.before) for one in told if isinstance(one, RunDone)] == [
        ("01-rank=2", True),
        ("02-rank=4", False),
    ]
    assert not any(isinstance(one, RunEvent) and isinstance(one.event, StepDone) for one in told)


def test_the_command_trains_each_point_once_and_names_the_best(
    tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    arguments = [
        *("sweep", "--model", str(tiny_model), "--data", str(tiny_data), "--method", "lora", "--held-out", "0.2"),
        *("--set", "train.steps=2", "--set", "compute.threads=1", "--set", "compute.dtype=float32"),
        *("--grid", "lora.rank=2,4", "--output", str(tmp_path / "sweep")),
    ]
    done = CliRunner().invoke(main, [*arguments, "--json"])
    assert done.exit_code == 0, done.output
    shown = json.loads(done.stdout)
    assert [one["state"] for one in shown["points"]] == ["complete"] * 2
    assert shown["best"] in {one["name"] for one in shown["points"]}
    again = CliRunner().invoke(main, arguments)
    assert again.exit_code == 0, again.output
    assert "best loss" in again.stdout
    assert "training" not in again.stderr
