"""The generated tasks: what is careless, what is preferred, how answers are judged, and when a claim shows."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))
try:
    import preference_tasks as tasks
    import preferences
finally:
    sys.path.remove(str(BENCHMARKS))

SIZES = tasks.Sizes(careless=50, pairs=20, teacher=30, student=10, held_out=10)


def asked(rows: list[dict[str, Any]]) -> set[str]:
    return {(row.get("messages") or [*row["prompt"], {}])[-2]["content"] for row in rows}


def measured(name: str, values: list[float], seed: int = 0, measure: str = preferences.EXACT) -> preferences.Measured:
    return preferences.Measured(
        name=name, seed=seed, values={measure: values}, train_seconds=1.0, seconds=2.0, processor_seconds=2.0,
        learning_rate=1e-4, steps=5, tokens=100,
    )  # fmt: skip


def test_pairs_differ_by_the_invented_field_alone_and_files_stand_on_different_messages(tmp_path: Path) -> None:
    files = {name: tasks.read_lines(path) for name, path in tasks.write_tasks(tmp_path, SIZES, seed=1).items()}
    answers = [json.loads(row["messages"][-1]["content"]) for row in files["careless"]]
    assert sum("status" in answer for answer in answers) == 30
    for row in files["pairs"]:
        chosen, rejected = (json.loads(row[key][0]["content"]) for key in ("chosen", "rejected"))
        assert chosen | tasks.INVENTED == rejected != chosen
    assert [row["label"] for row in files["labels"]] == [True, False] * 20
    assert asked(files["pairs"]) == asked(files["prompts"])
    separate = [asked(files[name]) for name in ("careless", "pairs", "teacher", "student", "held-out rows")]
    assert [len(some) for some in separate] == [50, 20, 30, 10, 10]
    assert len(set.union(*separate)) == 120
    assert not any("status" in row["messages"][-1]["content"] for name in ("teacher", "student") for row in files[name])


def test_more_rows_than_there_are_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="1,600"):
        tasks.write_tasks(tmp_path, tasks.Sizes(teacher=1600), seed=0)


def test_an_answer_is_clean_if_it_has_no_field_that_the_record_has_not() -> None:
    record = json.dumps({"kind": "theft", "ref": "A1"})
    assert tasks.is_clean(record, record)
    assert tasks.is_clean(json.dumps({"kind": "water damage"}), record)
    assert not tasks.is_clean(tasks.invented(record), record)
    assert not tasks.is_clean("no JSON", record)


def test_the_interval_is_over_seeds_where_there_are_several() -> None:
    low, high = preferences.interval([[0.0, 1.0] * 50])
    assert (low, high) == pytest.approx((0.404, 0.596), abs=1e-3)
    low, high = preferences.interval([[share] * 100 for share in (0.4, 0.5, 0.6)])
    assert (low, high) == pytest.approx((0.5 - 4.303 * 0.1 / 3**0.5, 0.5 + 4.303 * 0.1 / 3**0.5), abs=1e-3)


@pytest.mark.parametrize(
    ("own", "other", "verdict"),
    [
        ([1.0] * 20, [0.0] * 20, "shown"),
        ([0.0] * 20, [1.0] * 20, "the opposite shows"),
        ([1.0, 0.0] * 10, [0.0, 1.0] * 10, "does not show at this size"),
    ],
)
def test_a_claim_shows_where_the_interval_of_the_paired_difference_lies_above_0(
    own: list[float], other: list[float], verdict: str
) -> None:
    claim = preferences.Claim("grpo", preferences.EXACT, "sft")
    results = [measured("sft", other), measured("grpo", own)]
    found = preferences.compared(claim, results)
    assert found is not None
    assert preferences.verdict(claim, found) == verdict
    assert preferences.compared(claim, results[:1]) is None


def test_of_losses_the_lower_one_is_better_and_seeds_are_compared_each_with_its_own() -> None:
    claim = preferences.Claim("distillation", preferences.LOSS, "student")
    results = [measured("student", [1.0, 3.0] * 5, seed, preferences.LOSS) for seed in range(3)]
    results += [measured("distillation", [0.5, 2.5] * 5, seed, preferences.LOSS) for seed in range(3)]
    found = preferences.compared(claim, results)
    assert found is not None
    assert found.difference == pytest.approx(-0.5)
    assert preferences.verdict(claim, found) == "shown"


def test_chance_is_right_about_half_of_the_pairs() -> None:
    claim = preferences.Claim("reward", preferences.PAIRS, None)
    found = preferences.compared(claim, [measured("reward", [1.0] * 20, measure=preferences.PAIRS)])
    assert found is not None
    assert found.difference == pytest.approx(0.5)
    assert preferences.verdict(claim, found) == "shown"


def test_every_stage_makes_the_runs_that_its_own_start_from_and_are_compared_with_before_them(tmp_path: Path) -> None:
    files = tasks.write_tasks(tmp_path, SIZES, seed=0)
    for stage in preferences.STAGES.values():
        names = [run.name for run in stage.runs]
        for place, run in enumerate(stage.runs):
            assert {run.start, run.teacher} - {None} <= set(names[:place])
            preferences.configuration(run, files, "model.gguf", tmp_path, 0)
        assert {claim.run for claim in stage.claims} == {names[-1]}
        assert {claim.against for claim in stage.claims} - {None} <= set(names[:-1])
