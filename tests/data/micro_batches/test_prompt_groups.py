"""Rows with one prompt: found, brought together in an epoch, and cut to what a micro-batch holds."""

from __future__ import annotations

import random

import numpy as np
import pytest

from helpers.rows.examples import answered
from veneer.data.encoded.chat import Example
from veneer.data.micro_batches.batches import Steps
from veneer.data.micro_batches.orders import order
from veneer.data.micro_batches.packing import pack
from veneer.data.micro_batches.prompt_groups import (
    by_prompt,
    common_beginning,
    laid_tokens,
    pieces,
    prompt_numbers,
    rows_together,
    side_by_side,
)


def random_rows(source: random.Random, rows: int = 30, prompts: int = 9) -> list[Example]:
    """Answers behind a few prompts, some of which begin alike."""
    asked = [[1, 2, *range(10, 10 + source.randint(1, 30)), number] for number in range(prompts)]
    return [answered(source.choice(asked), source.choices(range(90), k=source.randint(1, 12))) for _ in range(rows)]


def test_rows_with_one_prompt_are_found() -> None:
    rows = [answered([1, 2], [3]), answered([1, 2, 3], [4]), answered([1, 2], [3, 4]), answered([1], [2])]
    assert prompt_numbers(rows).tolist() == [0, 1, 0, 2], "a longer prompt is another one, whatever follows it"
    assert by_prompt(rows) == [[0, 2], [1], [3]]
    assert laid_tokens([rows[0], rows[2]]) == 2 + 1 + 2


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        ([[1, 2, 3]], 0),
        ([[1, 2, 3], [1, 2, 3]], 2),  # a document keeps at least one token of its own
        ([[1, 2], [1, 2, 3, 4]], 1),
        ([[1], [1, 2]], 0),
        ([[5, 6, 7], [6, 6, 7]], 0),
        ([[1, 2, 9, 4], [1, 2, 8, 4], [1, 2, 9, 4]], 2),
    ],
)
def test_the_common_beginning_leaves_each_document_a_token(tokens: list[list[int]], expected: int) -> None:
    assert common_beginning([answered(row[:1], row[1:]) for row in tokens]) == expected


def test_rows_follow_the_first_with_their_prompt() -> None:
    """Beside the order as one would make it by hand."""
    for seed in range(20):
        source = random.Random(seed)
        prompts, most = np.array(source.choices(range(8), k=25)), source.randint(1, 5)
        ordered = order(25, seed=seed, epoch=0)
        waiting, expected = ordered.tolist(), []
        while waiting:
            first = waiting.pop(0)
            meeting = [first, *[row for row in waiting if prompts[row] == prompts[first]][: most - 1]]
            expected += meeting
            waiting = [row for row in waiting if row not in meeting]
        assert side_by_side(ordered, prompts, most).tolist() == expected


def test_an_order_without_a_common_prompt_stays() -> None:
    ordered = order(40, seed=3, epoch=1)
    assert side_by_side(ordered, np.arange(40), 5).tolist() == ordered.tolist()
    steps = [Steps([5] * 40, seed=3, examples_per_step=8, prompts=given) for given in (None, np.arange(40))]
    assert all(steps[0].examples(number).tolist() == steps[1].examples(number).tolist() for number in range(10))


def test_pairs_meet_in_a_step_that_has_four_prompts_at_least() -> None:
    prompts = np.repeat(np.arange(40), 2)
    steps = Steps([5] * 80, seed=3, examples_per_step=8, prompts=prompts)
    for number in range(20):
        own = prompts[steps.examples(number)]
        assert sorted(np.unique(own, return_counts=True)[1].tolist()) == [2] * 4
    crowded = Steps([5] * 80, seed=3, tokens_per_step=50, prompts=np.repeat(np.arange(4), 20))
    assert min(len(set(np.repeat(np.arange(4), 20)[crowded.examples(number)])) for number in range(6)) > 1
    assert rows_together(8) == 2
    assert rows_together(3) == 1


def test_pieces_hold_every_row_once_and_what_fits() -> None:
    for seed in range(20):
        rows = random_rows(random.Random(seed))
        found = pieces(rows, 50)
        assert sorted(place for piece in found for place in piece) == list(range(len(rows)))
        for piece in found:
            assert len(set(prompt_numbers([rows[place] for place in piece]))) == 1
            assert len(piece) == 1 or laid_tokens([rows[place] for place in piece]) <= 50
    assert pieces(rows, 10**6) == by_prompt(rows)


def test_micro_batches_by_prompt_hold_what_others_do() -> None:
    """Each row once, each prompt once in a micro-batch, and no more tokens than are asked for."""
    for seed in range(20):
        rows = random_rows(random.Random(seed))
        batches = pack(rows, 120, prompts=True, pad_to_multiple_of=1)
        assert sorted(number for batch in batches for number in batch.numbers) == list(range(len(rows)))
        for batch in batches:
            assert len(batch.tokens) <= 120
            own = [rows[number] for number in batch.numbers]
            assert batch.counts == tuple(one.supervised for one in own)
            targets = np.concatenate([one.tokens[one.loss_mask] for one in own])
            assert batch.targets.tolist() == targets.tolist()
            once = sum(laid_tokens([own[place] for place in group]) for group in by_prompt(own))
            assert len(batch.tokens) <= once
        assert sum(len(batch.tokens) for batch in batches) < sum(len(row.tokens) for row in rows)


def test_micro_batches_of_rows_without_a_common_prompt_stay() -> None:
    source = random.Random(0)
    rows = [answered([1, 2, 10 + number], source.choices(range(90), k=source.randint(1, 40))) for number in range(30)]
    for plain, found in zip(pack(rows, 100), pack(rows, 100, prompts=True), strict=True):
        assert (plain.numbers, plain.shared, plain.blocks) == (found.numbers, found.shared, found.blocks)
        assert plain.tokens.tolist() == found.tokens.tolist()
