"""The micro-batches of several runs are dealt out to passes, each once and in its run's order."""

from __future__ import annotations

import random

import pytest

from helpers.training.micro_batches import micro_batch
from veneer.training.joint_passes import in_passes


@pytest.mark.parametrize("seed", range(20))
def test_every_micro_batch_stands_in_one_pass_in_its_runs_order(seed: int) -> None:
    drawn = random.Random(seed)
    runs = {
        name: [micro_batch(drawn.randint(1, 60)) for _ in range(drawn.randint(1, 6))]
        for name in "abcde"[: drawn.randint(1, 5)]
    }
    width = drawn.randint(1, 120)
    passes = in_passes(runs, width)
    for name, own in runs.items():
        assert [id(batch) for one in passes for run, batch in one if run == name] == [id(batch) for batch in own]
    for one in passes:
        names = [name for name, _ in one]
        assert len(names) == len(set(names))
        assert len(one) == 1 or sum(len(batch.tokens) for _, batch in one) <= width


def test_a_pass_that_is_wide_enough_has_one_micro_batch_of_every_run() -> None:
    runs = {name: [micro_batch(10) for _ in range(count)] for name, count in (("a", 3), ("b", 1), ("c", 2))}
    assert [[name for name, _ in one] for one in in_passes(runs, 30)] == [["a", "b", "c"], ["a", "c"], ["a"]]
    assert [[name for name, _ in one] for one in in_passes(runs, 20)] == [["a", "b"], ["c"], ["a", "c"], ["a"]]
