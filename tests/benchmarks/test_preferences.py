"""The generated preference task: what is careless, what is preferred, and how answers are judged."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))
try:
    import preferences as task
finally:
    sys.path.remove(str(BENCHMARKS))


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_pairs_differ_by_the_invented_field_alone_and_stand_on_other_messages(tmp_path: Path) -> None:
    files = task.write_task(tmp_path, rows=50, pairs=20, eval_rows=10, seed=1)
    careless = [json.loads(row["messages"][-1]["content"]) for row in lines(files["sft"])]  # type: ignore[index]
    assert sum("status" in answer for answer in careless) == 30
    asked = {row["messages"][-2]["content"] for row in lines(files["sft"])}  # type: ignore[index]
    for row in lines(files["pairs"]):
        chosen, rejected = (json.loads(row[key][0]["content"]) for key in ("chosen", "rejected"))  # type: ignore[index]
        assert chosen | task.INVENTED == rejected != chosen
        assert row["prompt"][-1]["content"] not in asked  # type: ignore[index]
    labels = lines(files["labels"])
    assert [row["label"] for row in labels] == [True, False] * 20
    assert len(lines(files["held-out pairs"])) == len(lines(files["held-out rows"])) == 10


def test_an_answer_is_clean_if_it_has_no_field_that_the_record_has_not() -> None:
    record = json.dumps({"kind": "theft", "ref": "A1"})
    assert task.is_clean(record, record)
    assert task.is_clean(json.dumps({"kind": "water damage"}), record)
    assert not task.is_clean(task.invented(record), record)
    assert not task.is_clean("no JSON", record)


def test_the_interval_is_over_seeds_where_there_are_several() -> None:
    low, high = task.interval([0.5], 100)
    assert (low, high) == pytest.approx((0.404, 0.596), abs=1e-3)
    low, high = task.interval([0.4, 0.5, 0.6], 100)
    assert (low, high) == pytest.approx((0.5 - 4.303 * 0.1 / 3**0.5, 0.5 + 4.303 * 0.1 / 3**0.5), abs=1e-3)
