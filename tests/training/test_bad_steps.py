"""Bad steps are told from good ones, left out without a trace, and too many in a row end the run."""

from __future__ import annotations

import json
import math
import random
import statistics
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from helpers.models.tiny import run_config
from helpers.run_folders.run_logs import read_events
from helpers.tensors import assert_same_tensors
from veneer.data.micro_batches.batches import MicroBatch
from veneer.errors import Diverged, Interrupted
from veneer.events import Event, StepDone, StepSkipped
from veneer.reproduction.run import reproduce
from veneer.training.bad_steps import FEWEST, WINDOW, why_bad
from veneer.training.engine import Engine
from veneer.training.objectives.base import Sums
from veneer.training.over_model import OverModel
from veneer.training.run import train
from veneer.training.step_source import StepBatches

WEIGHTS = "adapter_model.safetensors"
SETTINGS = ("train.steps=14", "train.save_every=1", "train.keep=99", "train.skip_bad_steps=true", "lora.dropout=0.1",
            "compute.micro_batch_tokens=2048")  # fmt: skip


def naive(values: list[float], value: float) -> bool:
    """The rule in plain words, for one of the two measures."""
    if not math.isfinite(value):
        return True
    if len(values) < FEWEST:
        return False
    deviation = max(statistics.pstdev(values), 0.01 * abs(statistics.mean(values)))
    far = value - statistics.mean(values) > 6 * deviation
    return far if len(values) >= 64 else far and value > 2 * max(values)


@pytest.mark.parametrize("seed", range(20))
def test_bad_steps_are_those_of_the_rule(seed: int) -> None:
    source = random.Random(seed)
    for _ in range(100):
        count = source.choice([0, 1, FEWEST - 1, FEWEST, 20, 63, 64, WINDOW])
        spread = source.choice([0.0, 1e-3, 0.1, 1.0])
        window = [[2 + spread * source.random(), 1 + spread * source.random()] for _ in range(count)]
        values = [source.choice([0.5, 2.0, 2.1, 2.5, 4.0, 1e6, math.nan, math.inf]) for _ in range(2)]
        expected = any(naive([pair[place] for pair in window], values[place]) for place in range(2))
        assert (why_bad(window, *values) is not None) is expected, (window, values)


def test_the_sentence_names_the_measure() -> None:
    window = [[2.0 + 0.01 * (number % 3), 1.0] for number in range(70)]
    assert why_bad(window, 2.5, 1.0) == "the loss is 2.5, and 2.01 in the mean of the 70 steps before"
    assert why_bad(window, 2.0, 1e6) == "the gradient norm is 1e+06, and 1 in the mean of the 70 steps before"
    assert why_bad(window, math.nan, 1e6) == "the loss is nan"
    assert why_bad(window, 1.0, 0.1) is None  # low is not bad


@pytest.fixture
def spikes(monkeypatch: pytest.MonkeyPatch) -> dict[int, float]:
    """Factors of the loss by step; every step is one micro-batch, and the largest is tried before the first."""
    factors: dict[int, float] = {}
    whole = OverModel.sums
    current: list[int] = []
    prepared = Engine.prepare

    def note(engine: Engine) -> StepBatches:
        current[:] = [engine.progress.step + 1]
        return prepared(engine)

    def sums(over: OverModel, batch: MicroBatch) -> Sums:
        found = whole(over, batch)
        factor = factors.get(current[0], 1.0) if current and over.model.training else 1.0
        return Sums({name: term * factor for name, term in found.terms.items()})

    monkeypatch.setattr(Engine, "prepare", note)
    monkeypatch.setattr(OverModel, "sums", sums)
    return factors


def state(folder: Path, step: int) -> dict[str, torch.Tensor]:
    checkpoint = folder / "checkpoints" / f"step-{step:06d}"
    return {f"{file.name} {name}": tensor for file in checkpoint.glob("*.safetensors")
            for name, tensor in load_file(file).items()}  # fmt: skip


def skipped(folder: Path) -> list[int]:
    return [
        int(str(event["step"])) for event in read_events(folder / "events.jsonl") if event["event"] == "StepSkipped"
    ]


@pytest.mark.scenario(number=18)
def test_a_skipped_step_changes_nothing_and_is_counted(
    spikes: dict[int, float], tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    spikes.update({3: math.nan, 11: 1e6, 12: math.inf})
    said: list[Event] = []
    result = train(run_config(tiny_model, tiny_data, tmp_path / "run", *SETTINGS), emit=said.append)
    assert skipped(result.output) == [3, 11, 12]
    for step in (3, 11, 12):
        before, after = state(result.output, step - 1), state(result.output, step)
        assert_same_tensors(before, after)
    assert not all(torch.equal(state(result.output, 13)[name], tensor) for name, tensor in before.items())
    assert [event.skipped for event in said if isinstance(event, StepSkipped)] == [1, 2, 3]
    done = [event.step for event in said if isinstance(event, StepDone)]
    assert done == [number for number in range(1, 15) if number not in (3, 11, 12)]
    assert json.loads((result.output / "summary.json").read_text())["skipped"] == 3
    assert json.loads((result.output / "run.lock").read_text())["skipped"] == 3
    assert "NaN" not in (result.output / "events.jsonl").read_text()
    assert reproduce(result.output).same


@pytest.mark.parametrize("after", [2, 3, 11, 12])
def test_a_run_stopped_around_bad_steps_resumes_to_the_same_bytes(
    after: int, spikes: dict[int, float], tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    spikes.update({3: math.nan, 11: 1e6, 12: 1e6})
    train(run_config(tiny_model, tiny_data, tmp_path / "whole", *SETTINGS))
    config = run_config(tiny_model, tiny_data, tmp_path / "run", *SETTINGS)
    asked = iter(range(1, 100))
    with pytest.raises(Interrupted):
        train(config, stop=lambda: next(asked) == after)
    train(config, resume=True)
    assert skipped(tmp_path / "run") == skipped(tmp_path / "whole") == [3, 11, 12]
    assert (tmp_path / "run" / WEIGHTS).read_bytes() == (tmp_path / "whole" / WEIGHTS).read_bytes()


def test_the_window_holds_the_last_good_steps_and_no_more(
    tiny_model: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("veneer.training.engine.WINDOW", 4)
    said: list[Event] = []
    train(run_config(tiny_model, tiny_data, tmp_path / "run", *SETTINGS, "train.steps=7"), emit=said.append)
    good = [[event.loss, event.grad_norm] for event in said if isinstance(event, StepDone)]
    for step, first in ((3, 0), (4, 0), (5, 1), (7, 3)):
        saved = tmp_path / "run" / "checkpoints" / f"step-{step:06d}" / "state.json"
        assert json.loads(saved.read_text())["progress"]["window"] == good[first:step]


@pytest.mark.scenario(number=19)
def test_three_in_a_row_end_the_run_and_two_do_not(
    spikes: dict[int, float], tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    spikes.update({2: math.inf, 3: math.inf, 5: math.nan, 6: math.nan, 7: math.nan})
    with pytest.raises(
        Diverged, match=r"step 7: the loss is nan. There were 3 bad steps in a row, and 5 in total"
    ) as caught:
        train(run_config(tiny_model, tiny_data, tmp_path / "run", *SETTINGS))
    assert caught.value.exit_code == 3
    assert skipped(tmp_path / "run") == [2, 3, 5, 6]
    last, good = state(tmp_path / "run", 6), state(tmp_path / "run", 4)
    assert_same_tensors(last, good)
    assert not (tmp_path / "run" / "checkpoints" / "step-000007").exists()


def test_by_default_the_first_step_that_is_not_finite_ends_the_run(
    spikes: dict[int, float], tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    spikes.update({9: 1e6, 10: math.nan})
    settings = (*SETTINGS, "train.skip_bad_steps=false")
    with pytest.raises(Diverged, match=r"step 10: the loss is nan .*train\.skip_bad_steps"):
        train(run_config(tiny_model, tiny_data, tmp_path / "run", *settings))
    assert skipped(tmp_path / "run") == []
    state_file = tmp_path / "run" / "checkpoints" / "step-000009" / "state.json"
    assert json.loads(state_file.read_text())["progress"]["window"] == []
