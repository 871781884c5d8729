"""What an objective reads of sampled answers: by the places of a micro-batch's documents, none in a rehearsal."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from veneer.data.encoded.chat import Example
from veneer.data.micro_batches.packing import pack
from veneer.training.rollouts.table import RolloutTable


def example(length: int, answer: int) -> Example:
    return Example(np.arange(length, dtype=np.int32), np.arange(length) >= length - answer, "f")


def test_answers_are_found_by_their_places_in_any_micro_batch() -> None:
    examples = [example(5, 2), example(7, 3), example(6, 4)]
    table = RolloutTable(
        advantages=np.array([0.5, -1.0, 2.0]),
        counted=np.array([True, False, True]),
        sampled=[np.full(one.supervised, float(number)) for number, one in enumerate(examples)],
    )
    for most in (6, 13, 100):
        for batch in pack(examples, most):
            places = list(batch.numbers)
            assert table.advantages_of(batch).tolist() == table.advantages[places].tolist()
            assert table.counted_of(batch).tolist() == [float(table.counted[place]) for place in places]
            tokens = table.tokens_of(table.sampled, batch)
            assert tokens is not None
            assert tokens.tolist() == [float(place) for place in places for _ in range(examples[place].supervised)]


def test_answers_that_are_only_supposed_count_and_are_compared_with_nothing() -> None:
    (batch,) = pack([example(5, 2), example(7, 3)], 100)
    supposed, table = replace(batch, numbers=()), RolloutTable()
    assert table.advantages_of(supposed).tolist() == [1.0, 1.0]
    assert table.counted_of(supposed).tolist() == [1.0, 1.0]
    assert table.tokens_of([np.zeros(2)], supposed) is None
    with pytest.raises(IndexError):
        table.advantages_of(batch)
