"""The examples of each micro-batch: joined by their prompts, and filled no further than those of fine-tuning."""

from __future__ import annotations

import random

import pytest

from helpers.rows.examples import answered
from veneer.data.encoded.chat import Example
from veneer.data.micro_batches.filling import _fill_groups, fill, fill_prompts
from veneer.data.micro_batches.packing import pack
from veneer.data.micro_batches.prompt_groups import by_prompt, common_beginning, laid_tokens, pieces


def labelled(source: random.Random, *, common: int) -> list[Example]:
    """Answers to prompts that begin with so many tokens, one to three to each."""
    rows = []
    for number in range(6):
        prompt = [*range(1000, 1000 + common), number, *source.choices(range(90), k=source.randint(1, 40))]
        rows += [answered(prompt, source.choices(range(90), k=source.randint(1, 30))) for _ in range(number % 3 + 1)]
    return rows


def laid(examples: list[Example], most: int, *, prompts: bool) -> list[int]:
    """Tokens of each micro-batch."""
    return [len(batch.tokens) for batch in pack(examples, most, prompts=prompts, pad_to_multiple_of=1)]


def first_fit(lengths: list[int], most: int) -> list[list[int]]:
    """First-fit decreasing as it is said: the longest first, each into the first micro-batch with room for it."""
    room: list[int] = []
    bins: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        place = next((number for number, left in enumerate(room) if left >= lengths[index]), len(room))
        if place == len(room):
            room.append(most)
            bins.append([])
        room[place] -= lengths[index]
        bins[place].append(index)
    return [sorted(one) for one in bins]


def test_each_example_goes_into_the_first_micro_batch_that_has_room() -> None:
    source = random.Random(0)
    for _ in range(500):
        most = source.randint(1, 50)
        lengths = [source.randint(1, 70) for _ in range(source.randint(0, 40))]
        assert fill(lengths, most) == first_fit(lengths, most)


def fill_groups(examples: list[Example], groups: list[list[int]], most: int) -> list[list[int]]:
    """The same for groups of one prompt, which stand behind their prompts or all behind one beginning."""
    shared = common_beginning(examples)
    alone = [laid_tokens([examples[place] for place in group]) for group in groups]
    behind = [sum(len(examples[place].tokens) - shared for place in group) for group in groups]
    bins: list[list[int]] = []
    for index in sorted(range(len(groups)), key=lambda index: -alone[index]):
        for one in bins:
            together = [*one, index]
            if min(sum(alone[at] for at in together), shared + sum(behind[at] for at in together)) <= most:
                one.append(index)
                break
        else:
            bins.append([index])
    return [[place for index in sorted(one) for place in groups[index]] for one in bins]


@pytest.mark.parametrize("common", [0, 10, 200])
def test_each_prompt_goes_into_the_first_micro_batch_that_has_room(common: int) -> None:
    for seed in range(60):
        source = random.Random(seed)
        rows = [row for _ in range(source.randint(1, 5)) for row in labelled(source, common=common)]
        # Also where a prompt has no room in any, and where all begin with more than there is room for.
        most = source.choice([1, source.randint(1, 300), source.randint(100, 2000)])
        groups = [list(group) for group in pieces(rows, source.choice([most, 2000]))]
        assert _fill_groups(rows, groups, most) == fill_groups(rows, groups, most)


@pytest.mark.parametrize("common", [0, 10, 200])
def test_micro_batches_of_several_prompts_lay_no_more_than_those_of_fine_tuning(common: int) -> None:
    for seed in range(60):
        source = random.Random(seed)
        rows, most = labelled(source, common=common), source.randint(40, 700)
        plain, batches = laid(rows, most, prompts=False), pack(rows, most, prompts=True, pad_to_multiple_of=1)
        assert sorted(number for batch in batches for number in batch.numbers) == list(range(len(rows)))
        assert sum(len(batch.tokens) for batch in batches) <= sum(plain)
        for batch in batches:
            assert len(batch.tokens) <= max(most, *(len(row.tokens) for row in rows))
            if len(by_prompt([rows[number] for number in batch.numbers])) > 1:
                assert len(batch.tokens) <= max(plain)


def test_a_micro_batch_takes_another_prompt_only_as_far_as_rows_alone_would_fill_it() -> None:
    """Rows of 180 tokens in pairs behind prompts of 20: five rows are 900 tokens, and three pairs 1,020."""
    rows = [answered([number // 2] * 20, [number] * 160) for number in range(8)]
    assert laid(rows, 1024, prompts=False) == [900, 540]
    assert fill_prompts(rows, 1024) == [[[0, 1], [2, 3]], [[4, 5], [6, 7]]]
    assert laid(rows, 1024, prompts=True) == [680, 680]


def test_the_answers_to_one_prompt_are_not_cut_for_it() -> None:
    """A row alone fills a micro-batch with 160 tokens, and two answers to its prompt with 170."""
    rows = [answered([number // 2] * 150, [number] * 10) for number in range(4)]
    assert laid(rows, 200, prompts=False) == [160] * 4
    assert laid(rows, 200, prompts=True) == [170] * 2


def test_what_all_prompts_begin_with_decides_where_it_lays_fewer_tokens() -> None:
    """One instruction of 600 tokens: rows of other prompts share it, and to lay it with every prompt would be more."""
    rows = [answered([*range(600), 700 + number // 2, *[1] * 19], [number] * 20) for number in range(8)]
    assert laid(rows, 10**6, prompts=True) == laid(rows, 10**6, prompts=False) == [600 + 8 * 40]
    assert sum(laid(rows, 2048, prompts=True)) <= sum(laid(rows, 2048, prompts=False)) == 2100


def test_one_micro_batch_holds_all_where_there_is_room_for_every_row() -> None:
    """Also where the answers to the only prompt begin alike, so that less is laid behind one beginning."""
    rows = [answered([7] * 9, [5] * 20 + [number]) for number in range(3)]
    everything = sum(len(row.tokens) for row in rows)
    assert fill_prompts(rows, everything) == [[[0, 1, 2]]]
    assert fill([len(row.tokens) for row in rows], everything) == [[0, 1, 2]]
