"""Which evaluation of a run is the best: by its loss, or by a metric (`train.best_metric`).

Early stopping and `train.publish: best` use it. Metrics of preferences are those that the objective reports. Metrics of
answers are those of `veneer evaluate --metric`, measured on answers to evaluation rows
(`veneer.training.evaluations.answers`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from veneer.config import RunConfig
from veneer.enums import ObjectiveName, RowKind
from veneer.errors import ConfigError, nearest
from veneer.evaluation.metrics.choose import METRICS, PRIMARY
from veneer.rewards.build import names_of
from veneer.text.counting import count_of
from veneer.training.folder.progress import Progress
from veneer.training.objectives import distillation, kto
from veneer.training.objectives.base import Means
from veneer.training.objectives.documents import PAIR_METRICS, REWARD_METRICS

LOSS = "loss"
EXACT = "exact"
REWARD = "reward"
"""The mean reward of sampled answers."""
ANSWERS = {EXACT: EXACT, **{name: PRIMARY[name] for name in METRICS}}
"""Metrics of answers, and the measure of each that evaluations are compared by. Higher is better for all."""


@dataclass(frozen=True, slots=True)
class BestBy:
    """The number that evaluations are compared by."""

    metric: str = LOSS
    """The name of the metric, as in `train.best_metric`."""
    measure: str = LOSS
    """The name of the number: `loss`, or one of an evaluation's metrics."""
    higher: bool = False
    """Whether higher is better."""

    @property
    def of_answers(self) -> bool:
        """Whether it needs answers to rows."""
        return self.metric in ANSWERS

    def note(self, means: Means, progress: Progress) -> bool:
        """Record an evaluation. The result is whether it is the best so far, which a number that is not finite never
        is.

        Args:
            means: the loss and metrics of the evaluation.
            progress: the position of the run; its best evaluation is updated.
        """
        value = means.loss if self.measure == LOSS else means.metrics.get(self.measure, math.nan)
        before = self.reached(progress)
        better = before is None or as_loss(value, higher=self.higher) < as_loss(before, higher=self.higher)
        best = math.isfinite(value) and better
        if best:
            progress.best_step, progress.best_loss = progress.step, means.loss
            progress.best_value = None if self.measure == LOSS else value
        progress.stale_evaluations = 0 if best else progress.stale_evaluations + 1
        return best

    def reached(self, progress: Progress) -> float | None:
        """The number of the best evaluation so far; None before there is one."""
        return progress.best_loss if self.measure == LOSS else progress.best_value

    def stale(self, progress: Progress) -> str:
        """A sentence which says that evaluations no longer improve."""
        reached, evaluations = self.reached(progress), count_of(progress.stale_evaluations, "evaluation")
        if reached is None:
            return f"{self._name} has not been a number in {evaluations}"
        way = "higher" if self.higher else "lower"
        return f"{self._name} has not been {way} than {reached:.4f} (step {progress.best_step}) in {evaluations}"

    def why(self, progress: Progress) -> str:
        """Why the best evaluation is the best, as a clause."""
        return f"{self._name} {self.reached(progress):.4f} is the {'highest' if self.higher else 'lowest'}"

    @property
    def _name(self) -> str:
        return "the evaluation loss" if self.measure == LOSS else self.measure


def as_loss(value: float, *, higher: bool) -> float:
    """A number as a loss, of which lower is better. `higher` says whether the given number is better higher."""
    return -value if higher else value


def higher_is_better(measure: str) -> bool:
    """Whether evaluations are better with a higher number, by the name of the number."""
    return {LOSS: False, **distillation.METRICS, **PAIR_METRICS}.get(measure, True)


def best_by(config: RunConfig) -> BestBy:
    """What the evaluations of a run are compared by.

    Raises:
        ConfigError: the objective does not have the metric in `train.best_metric`.
    """
    name, objective = config.train.best_metric, config.objective
    if name == LOSS:
        return BestBy()
    known = _known(config)
    if name not in known:
        why = " (its texts ask nothing that could be answered)" if objective is ObjectiveName.PRETRAINING else ""
        raise ConfigError(
            f"train.best_metric {name}: objective {objective.value} has no such metric{nearest(name, list(known))}; "
            f"possible are {', '.join([LOSS, *known])}{why}"
        )
    if name not in ANSWERS:
        return BestBy(name, name, known[name])
    return BestBy(name, ANSWERS[name], higher=True)


def _known(config: RunConfig) -> dict[str, bool]:
    """The metrics of a run's objective, and whether higher is better."""
    match config.objective.rows:
        case RowKind.ANSWERS:
            taught = distillation.METRICS if config.objective is ObjectiveName.DISTILLATION else {}
            return {**taught, **dict.fromkeys(ANSWERS, True)}
        case RowKind.PAIRS if config.objective is ObjectiveName.REWARD:
            return REWARD_METRICS
        case RowKind.PAIRS:
            return PAIR_METRICS
        case RowKind.LABELLED:
            return kto.METRICS
        case RowKind.TEXTS:
            return {}
        case RowKind.PROMPTS:
            return dict.fromkeys((REWARD, *(f"rewards/{name}/mean" for name in names_of(config.rewards))), True)
