"""The comparison with TRL: the same rows for all systems, and a table in which nothing that failed goes missing."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
# Scripts, not a package.
sys.path.insert(0, str(BENCHMARKS))
try:
    import compare
    import preference_peers
    from peers import launch, measure
    from preference_tasks import read_lines
finally:
    sys.path.remove(str(BENCHMARKS))


@pytest.mark.parametrize(
    ("objective", "keys"),
    [
        ("dpo", {"prompt", "chosen", "rejected"}),
        ("kto", {"prompt", "completion", "label"}),
        ("grpo", {"prompt", "answer"}),
    ],
)
def test_every_objective_has_so_many_rows_of_its_own(objective: str, keys: set[str], tmp_path: Path) -> None:
    rows = read_lines(preference_peers.write_rows(objective, 6, tmp_path))
    assert len(rows) == 6
    assert all(row.keys() == keys and row["prompt"][-1]["role"] == "user" for row in rows)


def entry(speed: float, memory: float) -> compare.Entry:
    steps = [measure.Step(wall=1e6, cpu=1e6, tokens=9, supervised=0, loss=1.0)]
    steps += [measure.Step(wall=100 / speed, cpu=200 / speed, tokens=100, supervised=0, loss=1.0)] * 2
    return compare.Entry(runs=[launch.Run(measure.Record(steps=steps, peak_rss_mb=memory, versions={}), None)])


def test_the_table_has_every_system_and_the_ratios() -> None:
    failed = compare.Entry(problems=["round 1: no"])
    found = {"dpo": {"veneer": entry(500, 600.0), "TRL+PEFT": entry(100, 1500.0), "TRL+PEFT keeping all": failed}}
    lines = preference_peers.table(found).splitlines()
    assert lines[2] == "| dpo | veneer | 500 | 250 | 600 MB |  |  |  |"
    assert lines[3] == "| dpo | TRL+PEFT | 100 | 50 | 1,500 MB | 5.0 × | 5.0 × | 0.40 × |"
    assert lines[4].startswith("| dpo | TRL+PEFT keeping all | not run |")
    assert preference_peers.counts(found) == [
        f"dpo, {name}: tokens of the steps [9, 100, 100]" for name in ("veneer", "TRL+PEFT")
    ]
