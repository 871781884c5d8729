"""A time limit becomes a number of steps: the run is the run of that number, and measuring leaves nothing behind."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest

from helpers.models.tiny import run_config, tree
from helpers.run_folders.run_logs import read_events
from veneer.config import TrainSection
from veneer.config.values import read_yaml
from veneer.errors import ConfigError, Interrupted
from veneer.events import Event, Note, StepBudget
from veneer.reproduction.run import reproduce
from veneer.training import time_limit
from veneer.training.evaluations.answers import MeasuredAnswers
from veneer.training.run import train
from veneer.training.run_inputs import RunInputs
from veneer.training.session import Learner
from veneer.training.time_limit import FittingSteps, StepTimes, run_seconds, steps_that_fit

SETTINGS = ("lora.dropout=0.1", "data.held_out=0.2", "train.learning_rate=auto", "train.steps=150")
WEIGHTS = "adapter_model.safetensors"


def written(folder: Path) -> dict[str, bytes]:
    """What a run wrote but for what names its folder or its times."""
    kept = tree(folder)
    return {name: content for name, content in kept.items() if Path(name).name in (WEIGHTS, "loss.svg")}


def steps_of_five(monkeypatch: pytest.MonkeyPatch) -> None:
    """As few micro-batches as may be are measured, and a step is said to take so long that five fit into 60 s."""
    measured = time_limit._measured

    def slow(inputs: RunInputs, learner: Learner, most: float, begun: float) -> StepTimes:
        found = measured(inputs, learner, 0.0, begun)
        assert min(found.before, found.token, found.update, found.evaluation, found.checkpoint) > 0
        return replace(found, before=1.0, token=0.0, update=10.0, evaluation=0.01, checkpoint=0.01)

    monkeypatch.setattr(time_limit, "_measured", slow)


@pytest.mark.parametrize("seed", range(20))
def test_the_largest_number_of_steps_that_fits_is_found(seed: int) -> None:
    draw = random.Random(seed)
    times = StepTimes(
        before=draw.uniform(0, 20),
        token=draw.uniform(0.001, 0.1),
        update=draw.uniform(0, 1),
        evaluation=draw.choice([0.0, draw.uniform(0, 30)]),
        checkpoint=draw.uniform(0, 5),
    )
    section = TrainSection(eval_every=draw.choice([None, 3]), save_every=draw.choice([None, 4]))
    sizes = [draw.randint(1, 60) for _ in range(80)]
    limit = draw.uniform(20, 200)
    fitting = [
        FittingSteps(steps, sum(sizes[:steps]), run_seconds(times, section, sum(sizes[:steps]), steps))
        for steps in range(1, 81)
    ]
    expected = [one for one in fitting if one.seconds <= limit]
    found = steps_that_fit(limit, times, section, lambda step: sizes[step - 1], 80)
    assert found == (expected[-1] if expected else FittingSteps(0, 0, fitting[0].seconds))


def test_evaluations_and_checkpoints_are_counted() -> None:
    times = StepTimes(before=1000, token=0.0, update=100, evaluation=10, checkpoint=1)
    # Evaluations after steps 3, 6 and 7, a checkpoint at each of them, and the result.
    assert run_seconds(times, TrainSection(eval_every=3, save_every=3), 5, 7) == 1000 + 700 + 30 + 4
    # Saved after 5 and 7, and wherever an evaluation may be the best.
    assert run_seconds(times, TrainSection(eval_every=3, save_every=5), 5, 7) == 1000 + 700 + 30 + 2 + 3 + 1


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_run_that_fits_is_the_run_without_a_limit(
    method: str, tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    settings = (f"method={method}", "lora.dropout=0.0" if method == "full" else "lora.dropout=0.1", "train.epochs=2",
                "data.held_out=0.2", "train.learning_rate=auto")  # fmt: skip
    whole = train(run_config(tiny_model, tiny_data, tmp_path / "whole", *settings))
    said: list[Event] = []
    limited = train(
        run_config(tiny_model, tiny_data, tmp_path / "limited", *settings, "train.time_limit=1h"),
        emit=said.append,
    )
    (budget,) = (event for event in said if isinstance(event, StepBudget))
    assert budget.steps == budget.full_steps == whole.progress.step == limited.progress.step
    assert budget.limit == 3600
    for name in ("model.safetensors", WEIGHTS, "loss.svg"):
        assert tree(tmp_path / "whole").get(name) == tree(tmp_path / "limited").get(name)
    settled, free = (read_yaml(tmp_path / name / "config.yaml") for name in ("limited", "whole"))
    assert {**settled, "output": ""} == {**free, "output": ""}


def test_the_time_of_answers_is_set_aside_for_every_evaluation(
    tiny_model: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = (*SETTINGS, "train.best_metric=exact", "train.steps=20")
    monkeypatch.setattr(MeasuredAnswers, "longest_seconds", lambda self, most: 1_000.0)
    said: list[Event] = []
    config = run_config(
        tiny_model, tiny_data, tmp_path / "run", *settings, "train.eval_every=2", "train.time_limit=2500"
    )
    result = train(config, emit=said.append)
    assert result.progress.step == 4, "steps with two evaluations"
    budget = next(event for event in said if isinstance(event, StepBudget))
    assert 2_000 < budget.seconds < 0.95 * 2_500 < budget.full_seconds


def test_a_run_that_does_not_fit_is_the_run_of_the_steps_that_do(
    tiny_model: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps_of_five(monkeypatch)
    said: list[Event] = []
    config = run_config(tiny_model, tiny_data, tmp_path / "run", *SETTINGS, "train.time_limit=60")
    result = train(config, emit=said.append)
    assert result.progress.step == 5
    budget = next(event for event in said if isinstance(event, StepBudget))
    assert (budget.steps, budget.full_steps, budget.seconds_per_step) == (5, 150, 10)
    assert any("for 5 steps" in event.message for event in said if isinstance(event, Note))
    assert [event["steps"] for event in read_events(tmp_path / "run" / "events.jsonl") if "limit" in event] == [5]
    recorded = read_yaml(tmp_path / "run" / "config.yaml")["train"]
    assert (recorded["steps"], recorded["epochs"], recorded["time_limit"]) == (5, None, None)
    train(run_config(tiny_model, tiny_data, tmp_path / "five", *SETTINGS, "train.steps=5"))
    assert written(tmp_path / "run") == written(tmp_path / "five")
    monkeypatch.undo()
    assert reproduce(tmp_path / "run").same


def test_a_resumed_run_has_the_steps_that_were_fixed(
    tiny_model: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = run_config(tiny_model, tiny_data, tmp_path / "run", *SETTINGS, "train.time_limit=1m")
    with monkeypatch.context() as patch:
        steps_of_five(patch)
        with pytest.raises(Interrupted, match="after step 1 of 5"):
            train(config, stop=lambda: True)
    monkeypatch.setattr(time_limit, "_measured", lambda *_: pytest.fail("measured again"))
    said: list[Event] = []
    assert train(config, resume=True, emit=said.append).progress.step == 5
    assert any("the run has 5 steps, fixed when it began" in event.message for event in said if isinstance(event, Note))
    train(run_config(tiny_model, tiny_data, tmp_path / "five", *SETTINGS, "train.steps=5"))
    assert written(tmp_path / "run") == written(tmp_path / "five")


def foreseen_times(inputs: RunInputs, times: float) -> StepTimes:
    """Measured times by which a step takes so many times as long as the plan says."""
    plan = inputs.prepared.plan
    assert plan is not None
    token = times * plan.seconds / plan.choice.batch.step_tokens
    return StepTimes(before=0.01, token=token, update=0.0, evaluation=0.01, checkpoint=0.0)


@pytest.mark.parametrize(
    ("measured", "used"), [([1.5], 1.5), ([9.0, 1.2], 1.2), ([9.0, 12.0, 0.8], 0.8), ([9.0, 8.0, 11.0], 8.0)]
)
def test_steps_much_slower_than_foreseen_are_measured_again(
    measured: list[float], used: float, tiny_model: Path, tiny_data: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    tries = iter(measured)
    foreseen: list[float] = []

    def disturbed(inputs: RunInputs, learner: Learner, most: float, begun: float) -> StepTimes:
        times = foreseen_times(inputs, next(tries))
        assert inputs.prepared.plan is not None
        foreseen.append(inputs.prepared.plan.seconds)
        return times

    monkeypatch.setattr(time_limit, "_measured", disturbed)
    said: list[Event] = []
    config = run_config(tiny_model, tiny_data, tmp_path / "run", *SETTINGS, "train.steps=3", "train.time_limit=1h")
    train(config, emit=said.append)
    assert len(foreseen) == len(measured), "as often as needed, and three times at most"
    budget = next(event for event in said if isinstance(event, StepBudget))
    # The rows of the three steps are not as long as those of an average one.
    assert 0.5 * used < budget.seconds_per_step / foreseen[0] < 2 * used
    again = [event.message for event in said if isinstance(event, Note) and "measured again" in event.message]
    assert len(again) == len(measured) - 1


def test_a_limit_that_not_one_step_fits_into_is_refused(tiny_model: Path, tiny_data: Path, tmp_path: Path) -> None:
    config = run_config(tiny_model, tiny_data, tmp_path / "run", *SETTINGS, "train.time_limit=0.01")
    with pytest.raises(ConfigError, match=r"time_limit is 0\.01 s and not a single step fits.*give \d+ s or more"):
        train(config)
    train(run_config(tiny_model, tiny_data, tmp_path / "run", *SETTINGS, "train.steps=2"))


def test_a_limit_beside_eva_is_refused(tiny_model: Path, tiny_data: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"fixes the steps after lora\.init eva has looked at their rows"):
        train(run_config(tiny_model, tiny_data, tmp_path / "run", "lora.init=eva", "train.time_limit=10m"))
