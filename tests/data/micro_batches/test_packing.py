"""Packing: every document and target is laid once, first-fit decreasing, and what documents begin with once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.rows.examples import example
from veneer.data.encoded.chat import Example
from veneer.data.micro_batches.batches import Block, MicroBatch
from veneer.data.micro_batches.packing import pack
from veneer.errors import DataError


def test_a_micro_batch_in_full() -> None:
    (batch,) = pack(
        [example([10, 11, 12], [0, 0, 1]), example([20, 21, 22, 23], [1, 1, 0, 1])], 10, pad_to_multiple_of=1
    )
    assert batch.tokens.tolist() == [10, 11, 12, 20, 21, 22, 23]
    assert batch.positions.tolist() == [0, 1, 2, 0, 1, 2, 3]
    assert batch.lengths == (3, 4)
    assert batch.rows.tolist() == [1, 3, 5]
    assert batch.targets.tolist() == [12, 21, 23]  # not 20, the first of its document
    assert batch.supervised == 3
    for tensor in (batch.tokens, batch.positions, batch.rows, batch.targets):
        assert tensor.dtype == torch.int64


def test_packing_is_first_fit_decreasing() -> None:
    examples = [example([i] * length) for i, length in enumerate([3, 6, 4, 7, 12])]
    assert [batch.lengths for batch in pack(examples, 10)] == [(12,), (3, 7), (6, 4)]
    assert list(pack([], 10)) == []
    with pytest.raises(DataError, match="max_tokens is 0"):
        pack(examples, 0)


def documents_of(batch: MicroBatch) -> list[list[int]]:
    """The tokens of each document in full."""
    shared, *rest, _ = torch.split(batch.tokens, [batch.shared, *batch.lengths, batch.filler])
    return [shared.tolist() + own.tolist() for own in rest]


def test_a_micro_batch_is_filled_up_with_tokens_of_no_document() -> None:
    (batch,) = pack([example([1, 2, 3]), example([1, 5])], 100, pad_to_multiple_of=8)
    assert batch.tokens.tolist() == [1, 2, 3, 5, 0, 0, 0, 0]
    assert batch.positions.tolist() == [0, 1, 2, 1, 0, 0, 0, 0]
    assert (batch.shared, batch.lengths, batch.filler, batch.segments) == (1, (2, 1), 4, (2, 1, 4))
    assert batch.document_tokens == 5
    assert max(batch.rows.tolist()) < 4
    (whole,) = pack([example([1] * 64)], 100)
    assert (whole.filler, whole.segments) == (0, (64,))
    assert pack([example([1] * 65)], 100)[0].filler == 63


def test_what_all_documents_begin_with_is_laid_once() -> None:
    rows = [example([1, 2, 3, 8], [0, 1, 0, 1]), example([1, 2, 4], [1, 1, 1]), example([1, 2, 5, 6], [0, 0, 1, 1])]
    (batch,) = pack(rows, 100, pad_to_multiple_of=1)
    assert (batch.shared, batch.lengths) == (2, (2, 1, 2))
    assert batch.tokens.tolist() == [1, 2, 3, 8, 4, 5, 6]
    assert batch.positions.tolist() == [0, 1, 2, 3, 2, 2, 3]
    # Token 2 is predicted by the shared first token, in two documents; 4 and 5 by the shared second one.
    assert list(zip(batch.rows.tolist(), batch.targets.tolist(), strict=True)) == [
        (0, 2), (2, 8), (0, 2), (1, 4), (1, 5), (5, 6),
    ]  # fmt: skip
    assert batch.document_tokens == 11
    (apart,) = pack(rows, 100, share=False)
    assert (apart.shared, apart.lengths, apart.document_tokens) == (0, (4, 3, 4), 11)


@settings(max_examples=80, deadline=None)
@given(st.data(), st.booleans(), st.sampled_from([1, 8, 32]))
def test_packing_keeps_every_document_and_target(data: st.DataObject, share: bool, pad_to_multiple_of: int) -> None:
    lengths = data.draw(st.lists(st.integers(1, 12), min_size=1, max_size=20))
    budget = data.draw(st.integers(1, 30))
    common = data.draw(st.integers(0, 5))
    examples = []
    for number, length in enumerate(lengths):
        mask = data.draw(st.lists(st.integers(0, 1), min_size=length, max_size=length))
        examples.append(example([t if t < common else number * 100 + t for t in range(length)], mask))
    seen = []
    for batch in pack(examples, budget, share=share, pad_to_multiple_of=pad_to_multiple_of):
        documents = documents_of(batch)
        assert batch.document_tokens == sum(map(len, documents)) <= max(budget, len(documents[0]))
        assert len(batch.tokens) == len(batch.positions) == batch.shared + sum(batch.segments)
        assert len(batch.tokens) % pad_to_multiple_of == 0
        assert batch.filler < pad_to_multiple_of
        assert min(batch.lengths) > 0
        members, expected = [], []
        for document in documents:
            member = next(i for i, e in enumerate(examples) if i not in seen and e.tokens.tolist() == document)
            seen.append(member)
            members.append(member)
            mask = examples[member].loss_mask
            expected += [(t, document[t], document[t + 1]) for t in range(len(mask) - 1) if mask[t + 1]]
        assert members == sorted(members)
        rows = batch.rows
        found = zip(batch.positions[rows].tolist(), batch.tokens[rows].tolist(), batch.targets.tolist(), strict=True)
        assert list(found) == expected
    assert sorted(seen) == list(range(len(examples)))


def some(*texts: tuple[int, ...]) -> list[Example]:
    return [Example(np.array(text, dtype=np.int32), np.arange(len(text)) > 1, "f") for text in texts]


def test_pairs_stand_together_each_behind_its_own_prompt() -> None:
    examples = some((1, 2, 3, 4), (1, 2, 3, 5, 6), (7, 8, 9), (7, 8, 5, 5))
    (batch,) = pack(examples, 100, pad_to_multiple_of=8, together=2)
    assert batch.blocks == (Block(3, (1, 2)), Block(2, (1, 2)))
    assert batch.tokens.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 5, 5, 0, 0, 0, 0, 0]
    assert batch.positions.tolist() == [0, 1, 2, 3, 3, 4, 0, 1, 2, 2, 3, 0, 0, 0, 0, 0]
    assert batch.rows.tolist() == [1, 2, 1, 2, 4, 7, 7, 9]
    assert batch.targets.tolist() == [3, 4, 3, 5, 6, 9, 5, 5]
    assert (batch.counts, batch.numbers, batch.units, batch.filler) == ((2, 3, 1, 2), (0, 1, 2, 3), 2, 5)
    assert batch.document_tokens == 16


def test_pairs_share_one_beginning_where_that_lays_fewer_tokens() -> None:
    long = tuple(range(20))
    examples = some((*long, 30, 31), (*long, 32), (*long, 40), (*long, 41, 42))
    (batch,) = pack(examples, 200, pad_to_multiple_of=1, together=2)
    assert (batch.blocks, batch.shared, batch.lengths) == ((), 20, (2, 1, 1, 2))
    assert batch.numbers == (0, 1, 2, 3)


def test_a_pair_is_never_cut_and_keeps_its_numbers() -> None:
    examples = some((1, 2, 3), (1, 2, 4, 5), (6, 7), (6, 8, 8, 8, 8, 8), (9, 9, 9), (9, 9, 8))
    batches = pack(examples, 7, together=2, numbers=(10, 11, 4, 5, 2, 3))
    assert [batch.numbers for batch in batches] == [(4, 5), (10, 11), (2, 3)]
    assert all(batch.units == 1 for batch in batches)
    apart = pack(examples, 100, together=2, share=False)
    assert (apart[0].blocks, apart[0].shared, apart[0].lengths) == ((), 0, (3, 4, 2, 6, 3, 3))


class Asked(Sequence[Example]):
    """Examples that note which of them are asked for."""

    def __init__(self, examples: list[Example]):
        self.examples = examples
        self.asked: list[int] = []

    def __len__(self) -> int:
        return len(self.examples)

    @overload
    def __getitem__(self, place: int) -> Example: ...
    @overload
    def __getitem__(self, place: slice) -> list[Example]: ...
    def __getitem__(self, place: int | slice) -> Example | list[Example]:
        assert isinstance(place, int)
        self.asked.append(place)
        return self.examples[place]


def test_a_micro_batch_is_laid_when_it_is_asked_for() -> None:
    rows = Asked([example([i] * length) for i, length in enumerate([3, 6, 4, 7, 12])])
    batches = pack(rows, 10, numbers=range(5, 10))
    rows.asked.clear()
    assert len(batches) == 3
    assert rows.asked == []
    assert batches[1].numbers == (5, 8)
    assert set(rows.asked) == {0, 3}
    assert [batch.numbers for batch in batches[1:]] == [(5, 8), (6, 7)]
    assert batches[-1].tokens.equal(batches[2].tokens)
    with pytest.raises(IndexError):
        batches[3]
