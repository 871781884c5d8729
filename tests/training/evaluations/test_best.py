"""What the best evaluation is told by: against a plain search, and what is refused."""

from __future__ import annotations

import math
import random
from collections.abc import Collection
from pathlib import Path

import pytest

from helpers.models.tiny import rows, run_config, write_model, write_rows
from helpers.rows.preference_rows import pairs
from veneer.errors import ConfigError
from veneer.events import Evaluated, Event
from veneer.text.counting import count_of
from veneer.training.evaluations.best import ANSWERS, BestBy, best_by
from veneer.training.folder.progress import Progress
from veneer.training.objectives import distillation
from veneer.training.objectives.base import Means
from veneer.training.objectives.documents import PAIR_METRICS, REWARD_METRICS
from veneer.training.run import train


def plain(values: list[float], *, higher: bool) -> tuple[int | None, int]:
    """The place of the first best value that is finite, from 1, and how many values follow it."""
    places = [place for place, value in enumerate(values, start=1) if math.isfinite(value)]
    if not places:
        return None, len(values)
    best = (max if higher else min)(values[place - 1] for place in places)
    first = next(place for place in places if values[place - 1] == best)
    return first, len(values) - first


@pytest.mark.parametrize("higher", [True, False])
def test_the_best_evaluation_is_the_first_with_the_best_value(higher: bool) -> None:
    source = random.Random(int(higher))
    by = BestBy("m", "m", higher)
    for _ in range(200):
        values = [source.choice([source.randint(0, 5) / 4, math.nan, math.inf]) for _ in range(source.randint(1, 12))]
        progress = Progress()
        for step, value in enumerate(values, start=1):
            progress.step = step
            by.note(Means({}, float(step)).with_metrics({"m": value}), progress)
        first, stale = plain(values, higher=higher)
        assert (progress.best_step, progress.stale_evaluations) == (first, stale)
        assert by.reached(progress) == (None if first is None else values[first - 1])
        # The loss is that of the best evaluation, whatever other losses there were.
        assert progress.best_loss == (None if first is None else float(first))
        assert by.stale(progress).endswith(f" in {count_of(stale, 'evaluation')}")


def test_the_loss_is_best_where_it_is_lowest_and_stands_nowhere_twice() -> None:
    by, progress = BestBy(), Progress(step=1)
    assert by.note(Means({}, 2.0), progress)
    assert not by.note(Means({}, 2.0), progress)
    progress.step = 3
    assert by.note(Means({}, 1.5), progress)
    assert (progress.best_step, progress.best_loss, progress.best_value) == (3, 1.5, None)
    assert by.why(progress) == "the evaluation loss 1.5000 is the lowest"


def test_a_metric_that_an_evaluation_does_not_have_is_never_the_best() -> None:
    by, progress = BestBy("json", "json_f1", higher=True), Progress(step=1)
    assert not by.note(Means({}, 2.0), progress)
    assert by.stale(progress) == "json_f1 has not been a number in 1 evaluation"


def test_every_objective_has_its_own_metrics(tmp_path: Path) -> None:
    more = {
        "grpo": ("rewards=[{metric: exact, name: right}, {metric: number}]",),
        "distillation": ("distillation.teacher=teacher",),
    }

    def by(objective: str, metric: str) -> BestBy:
        settings = (
            f"objective={objective}", f"train.best_metric={metric}", "data.held_out=0.2", *more.get(objective, ()),
        )  # fmt: skip
        return best_by(run_config(tmp_path, tmp_path / "f.jsonl", tmp_path / "o", *settings))

    for name, measure in ANSWERS.items():
        assert by("sft", name) == BestBy(name, measure, higher=True)
        assert by("sft", name).of_answers
    for objective in ("dpo", "orpo", "cpo", "simpo"):
        for name in PAIR_METRICS:
            assert by(objective, name).higher == ("rejected" not in name)
    assert by("kto", "rewards/chosen").higher
    for name in REWARD_METRICS:
        assert by("reward", name) == BestBy(name, name, higher=name != "rewards/rejected")
    for name in distillation.METRICS:
        assert by("distillation", name) == BestBy(name, name, higher=name == "agreement")
    assert by("distillation", "exact").of_answers
    for name in ("reward", "rewards/right/mean", "rewards/number/mean"):
        assert by("grpo", name) == BestBy(name, name, higher=True)
    for objective in ("sft", "pretraining", "dpo", "kto", *more):
        assert by(objective, "loss") == BestBy()


@pytest.mark.parametrize(
    ("objective", "metric", "said"),
    [
        ("sft", "exakt", "objective sft has no such metric (did you mean 'exact'?)"),
        ("sft", "rewards/margins", "possible are loss, exact, json"),
        ("dpo", "exact", "possible are loss, rewards/chosen"),
        ("kto", "kl", "objective kto has no such metric"),
        ("pretraining", "exact", "possible are loss (its texts ask nothing that could be answered)"),
        ("reward", "logps/chosen", "possible are loss, rewards/chosen, rewards/rejected, rewards/margins, rewards/acc"),
        ("distillation", "kl", "possible are loss, divergence, cross_entropy, agreement, exact, json, "),
        ("grpo", "exact", "possible are loss, reward, rewards/exact/mean"),
        ("sft", "agreement", "possible are loss, exact, json"),
    ],
)
def test_a_metric_of_another_objective_is_refused(objective: str, metric: str, said: str, tmp_path: Path) -> None:
    config = run_config(
        tmp_path, tmp_path / "f.jsonl", tmp_path / "o", f"objective={objective}", f"train.best_metric={metric}",
        "data.held_out=0.2",
        *(["rewards=[{metric: exact}]"] if objective == "grpo" else []),
        *(["distillation.teacher=teacher"] if objective == "distillation" else []),
    )  # fmt: skip
    with pytest.raises(ConfigError) as caught:
        best_by(config)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("objective", "metric", "names"),
    [
        ("reward", "rewards/margins", REWARD_METRICS),
        ("distillation", "agreement", distillation.METRICS),
        ("grpo", "rewards/chrf/mean", ("reward", "rewards/chrf/mean")),
    ],
)
def test_evaluations_report_what_may_be_named_and_the_best_is_told_by_it(
    objective: str, metric: str, names: Collection[str], tiny_model: Path, tmp_path: Path
) -> None:
    content, settings = {
        "reward": (pairs(12), ()),
        "distillation": (rows(12), (f"distillation.teacher={write_model(tmp_path / 'teacher', seed=9)}",)),
        "grpo": (
            [{"prompt": f"{n}?", "answer": "the answer is there"} for n in range(12)],
            ("rewards=[{metric: chrf, column: answer}]", "grpo.max_completion_length=4", "grpo.num_generations=2"),
        ),
    }[objective]
    seen: list[Event] = []
    config = run_config(
        tiny_model, write_rows(tmp_path / "rows.jsonl", content), tmp_path / "run", f"objective={objective}",
        f"train.best_metric={metric}", "data.held_out=0.3", "train.steps=2", "train.eval_every=1", *settings,
    )  # fmt: skip
    progress = train(config, emit=seen.append).progress
    evaluated = [event for event in seen if isinstance(event, Evaluated)]
    assert len(evaluated) == 2
    for event in evaluated:
        assert event.best_by == metric
        assert set(names) <= event.metrics.keys()
    values = [event.metrics[metric] for event in evaluated]
    first, _ = plain(values, higher=True)
    assert (progress.best_step, progress.best_value) == (first, max(values))
