"""A reward that is one of veneer's metrics: how correct an answer is, compared with the reference in a column of its
row."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from veneer.errors import ConfigError, OutputError, nearest
from veneer.evaluation.metrics.base import AnsweredRow
from veneer.evaluation.metrics.choose import METRICS, PRIMARY
from veneer.evaluation.scoring import compare_answer, json_value, same_json
from veneer.rewards.base import AnswerToJudge, RewardFailed
from veneer.text.strict_json import to_text

EXACT = "exact"
"""The metric that is 1 for an answer that equals its reference, and 0 for others."""
REFERENCES = ("reference", "completion", "answer", "solution", "ground_truth", "target")
"""Columns that may hold the reference if none is named; the first one that a row has is used."""
OF_CORPORA = ("classification", "bleu")
"""Metrics that have no value for a single answer."""
PERCENT = {"chrf": 100.0}
"""The divisors of metrics whose maximum is not 1, so that all rewards have the same weight."""
STRING_CHECKS: dict[str, Callable[[str, str], bool]] = {
    "equal": lambda answer, reference: answer == reference,
    "not-equal": lambda answer, reference: answer != reference,
    "contains": lambda answer, reference: reference in answer,
    "contains-any-case": lambda answer, reference: reference.casefold() in answer.casefold(),
}
"""Metrics that are 1 if an answer and its reference, unchanged, satisfy the condition, and 0 otherwise."""
NAMES = (EXACT, *STRING_CHECKS, *(name for name in METRICS if name not in OF_CORPORA))


class MetricReward:
    """A metric of `veneer evaluate` for each single answer (`AnswerReward`); None if the metric gives no score.

    Args:
        name: the name of the metric.
        column: the column of the rows that holds the reference; None for the first of REFERENCES that a row has.

    Raises:
        ConfigError: there is no such metric, or it has no value for a single answer.
    """

    def __init__(self, name: str, column: str | None = None):
        if name not in NAMES:
            raise ConfigError(
                f"rewards: metric {name!r} is unknown{nearest(name, list(NAMES))}; possible are {', '.join(NAMES)}"
            )
        self._name, self._column = name, column

    def refusals(self, rows: Sequence[Mapping[str, Any]]) -> list[str | None]:
        """See `AnswerReward.refusals`: a row must hold a reference that can be compared."""
        return [self._refusal(columns) for columns in rows]

    def values(self, answers: Sequence[AnswerToJudge]) -> list[float | None]:
        """See `AnswerReward.values`."""
        return [self._value(answer) for answer in answers]

    def close(self) -> None:
        """Nothing needs to be closed."""

    def _value(self, answer: AnswerToJudge) -> float | None:
        found = self._found(answer.columns)
        reference = _written(found)
        if self._name == EXACT and isinstance(found, list):
            return float(same_json(json_value(answer.text), json_value(reference)))
        if self._name == EXACT:
            return float(compare_answer(answer.text, reference)[0])
        if self._name in STRING_CHECKS:
            return float(STRING_CHECKS[self._name](answer.text, reference))
        row = AnsweredRow(answer.where, answer.question, reference, answer.text, answer.columns)
        measures = {one.name: one.total for one in METRICS[self._name]([row]).measures}
        value = measures.get(PRIMARY[self._name])
        return None if value is None or math.isnan(value) else value / PERCENT.get(self._name, 1.0)

    def _refusal(self, columns: Mapping[str, Any]) -> str | None:
        try:
            _written(self._found(columns))
        except RewardFailed as error:
            return str(error)
        return None

    def _found(self, columns: Mapping[str, Any]) -> Any:
        """The reference in the row's column.

        Raises:
            RewardFailed: there is none.
        """
        names = REFERENCES if self._column is None else (self._column,)
        found = next((columns[name] for name in names if columns.get(name) is not None), None)
        if isinstance(found, list) and found and isinstance(found[-1], dict) and "role" in found[-1]:
            found = found[-1].get("content")  # the assistant's turn
        if found is None:
            raise RewardFailed(f"its row holds no reference under {' or '.join(names)}; null counts as absent")
        return found


def _written(value: Any) -> str:
    """A reference as text: an object, a list, true or false becomes the JSON that an answer should be.

    Raises:
        RewardFailed: it holds values that JSON cannot represent.
    """
    if not isinstance(value, dict | list | bool):
        return str(value)
    try:
        return to_text(value, ensure_ascii=False, default=str)
    except OutputError as error:
        raise RewardFailed(f"its row's reference cannot be written as JSON: {error}") from error
