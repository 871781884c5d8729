"""Full fine-tuning with weights in parts (FSDP2): the result of one process to rounding, however many there are."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from helpers.models.tiny import rows, run_config, write_model, write_rows
from helpers.processes.ranks import Ended, Forker
from helpers.run_folders.run_logs import read_events
from helpers.tensors import assert_same_tensors
from veneer.config import RunConfig, to_yaml
from veneer.errors import ConfigError, Interrupted
from veneer.run_folder import RunFolder
from veneer.training.run import train

SHARDED = "compute.sharding=full"
COMMON = (
    "method=full", "train.learning_rate=0.001", "train.epochs=2", "train.lanes=4", "train.save_every=1",
    "compute.micro_batch_tokens=64", "compute.rank_timeout=20", "compute.dtype=float32",
)  # fmt: skip
EVALUATED = ("data.held_out=0.25", "train.eval_every=1", "train.publish=best")
KINDS: dict[str, tuple[str, ...]] = {
    "recomputed, clipped, decaying": ("compute.recompute=layers", "train.clip=0.01", "train.weight_decay=0.1"),
    "lion": ("train.optimizer=lion", "train.learning_rate=0.0001"),
    "sgd, steps of tokens": ("train.optimizer=sgd", "train.tokens_per_step=130"),
}  # fmt: skip


class Runs:
    """Runs of one configuration, with the weights whole in one process and in parts in several."""

    def __init__(self, forker: Forker, model: Path, folder: Path, *assignments: str, count: int = 11):
        self.forker, self.model, self.folder, self.assignments = forker, model, folder, (*COMMON, *assignments)
        self.data = write_rows(folder / "rows.jsonl", rows(count))

    def config(self, name: str, *more: str) -> RunConfig:
        return run_config(self.model, self.data, self.folder / name, *self.assignments, *more)

    def command(self, name: str) -> list[str]:
        file = self.folder / f"{name}.yaml"
        file.write_text(to_yaml(self.config(name, SHARDED)))
        return ["train", "--config", str(file)]

    def whole(self) -> dict[str, torch.Tensor]:
        """The weights of a run of one process that holds all of them."""
        train(self.config("whole"))
        return self.weights("whole")

    def in_parts(self, name: str, world: int, restarts: int = 0) -> list[Ended]:
        ended = self.forker.run(world, self.command(name), restarts=restarts)
        assert [one.code for one in ended] == [0] * world, "\n".join(one.err for one in ended)
        return ended

    def weights(self, name: str) -> dict[str, torch.Tensor]:
        return load_file(self.folder / name / "model.safetensors")

    def losses(self, name: str) -> list[float]:
        return [float(str(one["loss"])) for one in read_events(self.folder / name / "events.jsonl") if "loss" in one]

    def steps(self, name: str) -> int:
        file = self.folder / name / "events.jsonl"
        return sum(one["event"] == "StepDone" for one in read_events(file)) if file.is_file() else 0


def equal_to_rounding(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        # AdamW makes whole steps of gradients that are all rounding; there are a few such elements.
        assert (found[name] - tensor).norm() <= 1e-5 * tensor.norm(), name


def test_two_processes_make_the_result_of_one(forker: Forker, tiny_model: Path, tmp_path: Path) -> None:
    runs = Runs(forker, tiny_model, tmp_path, "train.epochs=1", "data.held_out=0.25")
    expected = runs.whole()
    ended = runs.in_parts("two", 2)
    equal_to_rounding(runs.weights("two"), expected)
    assert runs.losses("two") == pytest.approx(runs.losses("whole"), rel=1e-5)
    assert "4 lanes on 2 processes, each with a part of every tensor" in ended[0].err
    assert "to rounding" in ended[0].err
    assert (ended[1].out, ended[1].err) == ("", "")
    assert (tmp_path / "two" / "config.json").read_bytes() == (tmp_path / "whole" / "config.json").read_bytes()
    hardware = [json.loads((tmp_path / name / "run.lock").read_text())["hardware"] for name in ("two", "whole")]
    assert hardware[0] == hardware[1] | {"processes": 2}
    # Each process has written its part of every tensor, and no file is a pickle.
    folder = RunFolder(tmp_path / "two").checkpoint(runs.steps("two"))
    weights, state = (
        [load_file(file) for file in sorted((folder / name).iterdir())] for name in ("weights", "optimizer")
    )
    assert len(weights) == len(state) == 2
    for name, tensor in runs.weights("two").items():
        for number, part in enumerate(tensor.chunk(2)):
            assert torch.equal(weights[number][name], part)
            assert state[number][f"{name}/exp_avg"].shape == part.shape


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 3, 4])
def test_several_processes_publish_the_best_weights_of_one(
    world: int, forker: Forker, tiny_model: Path, tmp_path: Path
) -> None:
    runs = Runs(forker, tiny_model, tmp_path, *EVALUATED)
    expected = runs.whole()
    runs.in_parts("run", world)
    equal_to_rounding(runs.weights("run"), expected)
    assert runs.losses("run") == pytest.approx(runs.losses("whole"), rel=1e-5)
    runs.in_parts("again", world)
    assert_same_tensors(runs.weights("again"), runs.weights("run"))


@pytest.mark.slow
def test_a_run_goes_on_at_other_numbers_of_processes(forker: Forker, tiny_model: Path, tmp_path: Path) -> None:
    runs = Runs(forker, tiny_model, tmp_path, "train.epochs=3")
    expected = runs.whole()
    with pytest.raises(Interrupted):
        train(runs.config("run", SHARDED), stop=lambda: True)  # one process, which holds all
    assert runs.steps("run") == 1
    started = forker.start(2, runs.command("run"), restarts=1)
    started.when(lambda: runs.steps("run") >= 2)
    started.kill(1, signal.SIGTERM)
    codes = [one.code for one in started.ended()]
    if runs.steps("run") < 6:
        assert codes == [130, 143]
    runs.in_parts("run", 3, restarts=1)
    equal_to_rounding(runs.weights("run"), expected)
    assert runs.steps("run") == 6


def test_one_process_makes_the_bytes_that_it_makes_with_whole_weights(tiny_model: Path, tmp_path: Path) -> None:
    data = write_rows(tmp_path / "rows.jsonl", rows(5))
    made = []
    for name, more in (("whole", "none"), ("parts", "full")):
        train(run_config(tiny_model, data, tmp_path / name, *COMMON, "train.lanes=1", f"compute.sharding={more}"))
        made.append(load_file(tmp_path / name / "model.safetensors"))
    assert_same_tensors(made[0], made[1])


@pytest.mark.slow
def test_a_killed_process_ends_the_others_by_name_and_a_restart_goes_on(
    forker: Forker, tiny_model: Path, tmp_path: Path
) -> None:
    runs = Runs(forker, tiny_model, tmp_path, "train.epochs=8", "train.save_every=3")
    started = forker.start(2, runs.command("run"))
    started.when(lambda: runs.steps("run") >= 4)
    started.kill(1)
    ended = started.ended()
    assert ended[1].code == -signal.SIGKILL
    assert ended[0].code == 2
    assert "rank 1 on " in ended[0].err
    assert "does not answer any more" in ended[0].err
    # No process can write alone what only all of them have: the newest checkpoint is that of an earlier step.
    assert max(RunFolder(tmp_path / "run").checkpoint_steps()) % 3 == 0
    runs.in_parts("run", 4, restarts=1)
    equal_to_rounding(runs.weights("run"), runs.whole())


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tied", [True, False])
def test_every_kind_of_run(kind: str, tied: bool, forker: Forker, tmp_path: Path) -> None:
    model = write_model(tmp_path / "model", tied=tied)
    runs = Runs(forker, model, tmp_path, *EVALUATED[:2], *KINDS[kind])
    expected = runs.whole()
    runs.in_parts("two", 2)
    equal_to_rounding(runs.weights("two"), expected)


@pytest.mark.slow
def test_processes_without_rows_take_part(forker: Forker, tiny_model: Path, tmp_path: Path) -> None:
    runs = Runs(forker, tiny_model, tmp_path, "train.lanes=1", count=1)
    expected = runs.whole()
    runs.in_parts("four", 4)
    equal_to_rounding(runs.weights("four"), expected)


def test_what_does_not_go_together_is_named_at_once(tiny_model: Path, tiny_data: Path, tmp_path: Path) -> None:
    wrong = ("method=lora", "train.optimizer=adamw8bit", "train.samples_every=2", SHARDED)
    with pytest.raises(ConfigError) as error:
        train(run_config(tiny_model, tiny_data, tmp_path / "run", *wrong))
    said = str(error.value)
    assert "method is lora" in said
    assert "train.optimizer is adamw8bit; use adamw, lion, sgd" in said
    assert "train.samples_every" in said
