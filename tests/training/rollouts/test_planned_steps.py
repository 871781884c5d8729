"""Steps over prompts whose answers are only supposed: as large as any may become, and in pieces that fit."""

from __future__ import annotations

import numpy as np
import pytest

from veneer.config import TrainSection
from veneer.data.encoded.chat import Example
from veneer.data.rows import Rows
from veneer.training.rollouts.planned_steps import PromptSteps, Sampled, answered, supposed, supposed_prompts
from veneer.training.steps import Packing
from veneer.training.supposed_steps import SupposedRows

SAMPLED = Sampled(num_generations=6, longest=10, iterations=1)
PACKING = Packing(share=True, evaluation_share=True, pad_to_multiple_of=1)


def prompt(length: int) -> Example:
    return Example(np.arange(3, 3 + length, dtype=np.int32), np.zeros(length, dtype=np.bool_), "f")


def steps(sampled: Sampled = SAMPLED, packing: Packing = PACKING, piece: int = 6, **train: int) -> PromptSteps:
    rows = Rows([prompt(length) for length in (4, 20, 8, 12, 5)], [])
    return PromptSteps(rows, TrainSection.model_validate({"examples_per_step": 2} | train), packing, sampled, piece)


def test_answers_stand_in_the_largest_pieces_that_fit() -> None:
    assert SAMPLED.pieces() == [6, 3, 2, 1]
    assert [SAMPLED.piece(20, 10, most) for most in (80, 79, 50, 49, 40, 39, 1)] == [6, 3, 3, 2, 2, 1, 1]


def test_steps_are_those_of_the_prompts_times_the_iterations() -> None:
    assert steps(epochs=2).total == 6
    thrice = steps(Sampled(num_generations=6, longest=10, iterations=3), epochs=2)
    assert thrice.total == 18
    assert [thrice.generation(step) for step in (1, 3, 4, 18)] == [1, 1, 2, 6]
    assert sorted(row for number in (1, 2, 3) for row in thrice.prompts(number)) == [0, 1, 2, 3, 4]
    assert thrice.epoch(9) == pytest.approx(1.0)
    assert steps(steps=7).total == 7


@pytest.mark.parametrize("most", [30, 60, 100, 200, 10_000])
@pytest.mark.parametrize("share", [True, False])
def test_no_micro_batch_is_larger_than_the_planned_one(most: int, share: bool) -> None:
    found = steps(packing=Packing(share=share, evaluation_share=share, pad_to_multiple_of=1), steps=3)
    shape, largest = found.batch_shape(most), found.largest(most)
    assert len(largest.tokens) <= shape.tokens
    assert len(largest.counts) <= shape.documents
    assert largest.supervised <= shape.supervised
    assert largest.numbers == (), "supposed answers are none of the run's"
    assert shape.tokens <= max(most, 30)
    assert shape.sampled == 12
    assert shape.step_supervised == 120


def test_the_prompt_of_a_group_is_laid_once() -> None:
    largest = steps(steps=1).largest(80)
    assert len(largest.tokens) == 20 + 6 * 10


def test_supposed_answers_share_their_prompt_and_no_more() -> None:
    example = supposed(prompt(5), 1, 2, 4)
    assert example.supervised == 4
    assert len(example.tokens) == 9
    other = supposed(prompt(5), 1, 3, 4)
    assert (example.tokens[:5] == other.tokens[:5]).all()
    assert example.tokens[5] != other.tokens[5]
    assert supposed(prompt(5), 0, 2, 4).tokens[0] != example.tokens[0]


def test_an_answer_trains_and_its_prompt_does_not() -> None:
    example = answered(prompt(3), (7, 8))
    assert example.tokens.tolist() == [3, 4, 5, 7, 8]
    assert example.loss_mask.tolist() == [False] * 3 + [True] * 2


def test_a_plan_without_data_supposes_prompts() -> None:
    rows = supposed_prompts(SupposedRows(rows=10, tokens=6, longest=30))
    assert sorted(rows.lengths.tolist()) == [6] * 9 + [30]
