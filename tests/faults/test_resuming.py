"""A stopped run goes on as if it had never been stopped."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from helpers.models.tiny import examples, run_config, tree
from helpers.tensors import assert_same_tensors
from helpers.training.training_runs import LONG, SETTINGS, WEIGHTS, stopping_after, weights
from veneer.data.micro_batches.batches import MicroBatch
from veneer.errors import Interrupted
from veneer.events import Event, Note, StepDone
from veneer.io.locks import LOCK
from veneer.training.run import train
from veneer.training.session import RunResult
from veneer.training.steps import PackedSteps


@pytest.mark.scenario(number=4)
@pytest.mark.parametrize(
    "method", [pytest.param(method, marks=pytest.mark.slow if method != "lora" else ()) for method in SETTINGS]
)
def test_losses_are_equal_to_the_last_bit_over_100_steps(
    method: str, tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    losses: list[list[float]] = []
    for name in ("a", "b"):
        seen: list[Event] = []
        settings = (*SETTINGS[method], "train.steps=100", "train.save_every=100")
        config = run_config(tiny_model, tiny_data, tmp_path / name, *settings)
        train(config, emit=seen.append)
        losses.append([event.loss for event in seen if isinstance(event, StepDone)])
    assert len(losses[0]) == 100
    assert losses[0] == losses[1]
    assert losses[0][-1] < losses[0][0] / 2


@pytest.mark.scenario(number=2)
@pytest.mark.parametrize("method", SETTINGS)
@pytest.mark.parametrize("stops", [(1,), (3,), (5,), (1, 2, 1)])
def test_a_run_stopped_and_resumed_is_the_run_never_stopped(
    method: str, stops: tuple[int, ...], finished: dict[str, RunResult], tiny_model: Path, tiny_data: Path,
    tmp_path: Path,
) -> None:  # fmt: skip
    config = run_config(
        tiny_model, tiny_data, tmp_path / "run", *SETTINGS[method], *LONG, "train.save_every=100", "train.keep=9"
    )
    for number, after in enumerate(stops):
        with pytest.raises(Interrupted):
            train(config, resume=number > 0, stop=stopping_after(after))
    result = train(config, resume=True)
    expected = finished[method]
    assert weights(tmp_path / "run", method) == weights(expected.output, method)
    assert (result.progress.step, result.progress.tokens) == (6, expected.progress.tokens)
    assert (result.progress.best_step, result.progress.best_loss) == (
        expected.progress.best_step, expected.progress.best_loss,
    )  # fmt: skip
    theirs, ours = (
        load_file(folder / "checkpoints" / "step-000006" / "optimizer.safetensors")
        for folder in (expected.output, tmp_path / "run")
    )
    assert_same_tensors(theirs, ours)
    assert tree(tmp_path / "run")["loss.svg"] == tree(expected.output)["loss.svg"]


@pytest.mark.scenario(number=3)
def test_a_run_resumed_in_its_second_epoch_trains_every_row_once_an_epoch(
    tiny_model: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps_of: dict[int, list[list[int]]] = {}
    real = PackedSteps.lanes

    def recorded(source: PackedSteps, step: int, most: int | None = None) -> list[list[MicroBatch]]:
        found = real(source, step, most)
        steps_of[step] = [document for lane in found for batch in lane for document in documents_of(batch)]
        return found

    monkeypatch.setattr(PackedSteps, "lanes", recorded)
    config = run_config(tiny_model, tiny_data, tmp_path / "run", "train.epochs=3", "train.examples_per_step=6")
    with pytest.raises(Interrupted):
        train(config, stop=stopping_after(6))  # 4 steps an epoch: in the middle of the second
    assert sorted(steps_of) == list(range(1, 7))
    train(config, resume=True)
    assert sorted(steps_of) == list(range(1, 13))
    epochs = [sorted(row for step in range(first, first + 4) for row in steps_of[step]) for first in (1, 5, 9)]
    rows_of_the_file = sorted(row.tokens.tolist() for row in examples(tiny_model, tiny_data))
    assert len(rows_of_the_file) == 20
    assert all(one != other for one, other in itertools.pairwise(rows_of_the_file))
    assert epochs == [rows_of_the_file] * 3


def documents_of(batch: MicroBatch) -> list[list[int]]:
    """The tokens of each document, with those that all of them begin with."""
    tokens = batch.tokens.tolist()
    ends = np.cumsum([batch.shared, *batch.lengths])
    return [tokens[: batch.shared] + tokens[begin:end] for begin, end in itertools.pairwise(ends)]


@pytest.mark.scenario(number=2)
@pytest.mark.parametrize("method", SETTINGS)
def test_a_complete_run_that_is_resumed_is_left_as_it_is_to_the_byte(
    method: str, finished: dict[str, RunResult], tmp_path: Path, tiny_model: Path, tiny_data: Path
) -> None:
    output = tmp_path / "run"
    shutil.copytree(finished[method].output, output)
    files = {file: file.stat().st_mtime_ns for file in output.rglob("*") if file.is_file() and file.name != LOCK}
    before = tree(output)
    seen: list[Event] = []
    config = run_config(tiny_model, tiny_data, output, *SETTINGS[method], *LONG, "train.keep=9")
    result = train(config, resume=True, emit=seen.append)
    assert (result.progress.step, result.complete_before) == (6, True)
    assert Note(message="the run is complete: its folder is left unchanged") in seen
    assert tree(output) == before
    assert {file: file.stat().st_mtime_ns for file in files} == files
    assert all(torch.equal(one, other) for one, other in weights_of(result, finished[method]))
    (output / "summary.json").unlink()
    assert not train(config, resume=True).complete_before
    assert (output / "summary.json").is_file()
    for garbage in ("{", "[]", '{"step": 5}'):
        (output / "summary.json").write_text(garbage)
        assert not train(config, resume=True).complete_before
        assert json.loads((output / "summary.json").read_text())["step"] == 6
    longer = run_config(tiny_model, tiny_data, output, *SETTINGS[method], *LONG, "train.keep=9", "train.epochs=4")
    assert train(longer, resume=True).progress.step == 8
    assert json.loads((output / "run.lock").read_text())["schedules"] == [
        {"from_step": 0, "steps": 6}, {"from_step": 6, "steps": 8},
    ]  # fmt: skip


def weights_of(*results: RunResult) -> Iterator[tuple[torch.Tensor, ...]]:
    return zip(*(result.trainable.named().values() for result in results), strict=True)


@pytest.mark.scenario(number=2)
@pytest.mark.parametrize("method", SETTINGS)
def test_a_complete_run_whose_weights_are_gone_writes_them_again_to_the_byte(
    method: str, finished: dict[str, RunResult], tmp_path: Path, tiny_model: Path, tiny_data: Path
) -> None:
    output = tmp_path / "run"
    shutil.copytree(finished[method].output, output)
    (output / WEIGHTS[method]).unlink()
    result = train(run_config(tiny_model, tiny_data, output, *SETTINGS[method], *LONG), resume=True)
    assert result.progress.step == 6
    assert weights(output, method) == weights(finished[method].output, method)
