"""JSON by field: how many fields are right of those given (precision) and of those expected (recall), and validity.

A field is a key of the object. It is right if its value equals the reference's and has the same type. A wrong field is
absent, null or wrong, which are counted separately; a field that the reference does not have is extra. If no field was
given at all, precision is 0, as in scikit-learn: a base that answers no JSON is then compared with its adapter.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from veneer.evaluation.metrics.base import AnsweredRow, TaskResult
from veneer.evaluation.scoring import json_object, same_json
from veneer.evaluation.statistics.measures import SHARE, Floats, Measure, mean_of, quotient

KINDS = ("right", "absent", "null", "wrong", "extra")


def json_fields(rows: Sequence[AnsweredRow]) -> TaskResult:
    """Precision, recall and F1 over the fields of all rows whose reference is a JSON object, and the share of their
    answers that are JSON objects."""
    counts = np.zeros((len(rows), 3))
    valid: list[float | None] = []
    by_field: dict[str, Counter[str]] = {}
    for place, row in enumerate(rows):
        expected = json_object(row.reference)
        if expected is None:
            valid.append(None)
            continue
        given = json_object(row.answer)
        valid.append(float(given is not None))
        for key, kind in _kinds(expected, given or {}):
            by_field.setdefault(key, Counter())[kind] += 1
            counts[place] += (kind == "right", kind != "absent", kind != "extra")
    measures = [
        Measure("json_precision", counts[:, :2], _precision, SHARE),
        Measure("json_recall", counts[:, [0, 2]], quotient, SHARE),
        Measure("json_f1", counts, _f1, SHARE),
    ]
    validity = mean_of("json_valid", valid)
    table = {key: {kind: found[kind] for kind in KINDS} for key, found in by_field.items()}
    # Recall is undefined if no reference has a field, and nothing is defined if no answer has one either.
    kept = [one for one in measures if by_field and not np.isnan(one.total)]
    return TaskResult([*([] if validity is None else [validity]), *kept], {"fields": table} if table else {})


def _kinds(expected: dict[str, Any], given: dict[str, Any]) -> list[tuple[str, str]]:
    found = []
    for key, value in expected.items():
        if key not in given:
            found.append((key, "absent"))
        elif same_json(given[key], value):
            found.append((key, "right"))
        else:
            found.append((key, "null" if given[key] is None else "wrong"))
    return found + [(key, "extra") for key in given if key not in expected]


def _precision(sums: Floats) -> Floats:
    """The right fields divided by those given, or 0 if none was given."""
    return np.asarray(sums[..., 0] / np.maximum(sums[..., 1], 1))


def _f1(sums: Floats) -> Floats:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(2 * sums[..., 0] / (sums[..., 1] + sums[..., 2]))
