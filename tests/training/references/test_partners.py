"""Partners of rows are others, depend on the rows of the step alone, and make no text longer than the longest row."""

from __future__ import annotations

import numpy as np
import pytest

from helpers.rows.preference_rows import text
from veneer.data.micro_batches.orders import order
from veneer.training.references.partners import STREAM, Partners


def test_every_partner_has_another_prompt_and_another_answer() -> None:
    """Two answers to one prompt, as pairs make them, are no partners, and neither are equal answers."""
    tokens = [(1, 2, 10), (1, 2, 11), (3, 4, 10), (5, 6, 12, 13)]
    examples = [text(*one, prompt=2) for one in tokens]
    partners = Partners.among(examples, seed=0)
    found = partners.of(range(4))
    assert {number for number, _ in found} == {0, 1, 2, 3}
    for number, other in found:
        assert examples[number].tokens[:2].tolist() != examples[other].tokens[:2].tolist()
        assert examples[number].tokens[2:].tolist() != examples[other].tokens[2:].tolist()
    joined = partners.joined(0, 3)
    assert joined.tokens.tolist() == [1, 2, 12, 13]
    assert joined.loss_mask.tolist() == [False, False, True, True]


def test_no_prompt_with_another_answer_is_longer_than_the_longest_row() -> None:
    """A long prompt with a short answer, and the other way round: the answer behind the long prompt is cut."""
    examples = [text(*range(1, 9), 50, prompt=8), text(20, *range(60, 67), prompt=1), text(21, 70, prompt=1)]
    partners = Partners.among(examples, seed=0)
    cut = partners.joined(0, 1)
    assert cut.tokens.tolist() == [*range(1, 9), 60]
    assert cut.loss_mask.tolist() == [False] * 8 + [True]
    assert partners.joined(2, 1).tokens.tolist() == [21, *range(60, 67)]


@pytest.mark.parametrize("numbers", [[2], [0, 1], [0, 2]])
def test_rows_without_a_partner_have_none(numbers: list[int]) -> None:
    """A single row, two answers to one prompt, and equal answers: y′ is never y."""
    examples = [text(1, 2, 10, prompt=2), text(1, 2, 11, prompt=2), text(3, 4, 10, prompt=2)]
    assert Partners.among(examples, seed=0).of(numbers) == []


@pytest.mark.parametrize("kinds", [1, 2, 3, 30])
def test_a_partner_is_the_next_row_in_the_ring_whose_prompt_and_answer_are_others(kinds: int) -> None:
    source = np.random.default_rng()
    count = int(source.integers(1, 40))
    parts = [(int(source.integers(kinds)), int(source.integers(3))) for _ in range(count)]
    partners = Partners.among([text(1, prompt, 50 + answer, prompt=2) for prompt, answer in parts], seed=5)
    ring = sorted(range(count), key=np.argsort(order(count, seed=5, epoch=STREAM)).__getitem__)
    expected = []
    for place, number in enumerate(ring):
        for other in [*ring[place + 1 :], *ring[:place]]:
            if parts[other][0] != parts[number][0] and parts[other][1] != parts[number][1]:
                expected.append((number, other))
                break
    assert partners.of(range(count)) == expected


def test_partners_of_many_answers_to_one_prompt_are_looked_for_once() -> None:
    """An evaluation asks for those of all its rows at a time: comparing each with each would take minutes."""
    examples = [text(1, 2, 50 + number, prompt=2) for number in range(20_000)]
    assert Partners.among(examples, seed=0).of(range(len(examples))) == []
    more = [*examples, text(3, 4, 10, prompt=2)]
    found = Partners.among(more, seed=0).of(range(len(more)))
    assert {partner for number, partner in found if number < len(examples)} == {len(examples)}


def test_partners_depend_on_the_rows_of_a_step_and_not_on_their_order() -> None:
    examples = [text(n, n + 1, 50 + n, prompt=2) for n in range(20)]
    partners = Partners.among(examples, seed=3)
    numbers = [4, 9, 1, 17, 12, 3, 8]
    assert dict(partners.of(numbers)) == dict(partners.of(numbers[::-1]))
    assert partners.of(numbers) != Partners.among(examples, seed=4).of(numbers)
