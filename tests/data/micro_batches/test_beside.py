"""Texts beside a micro-batch: each token of a prompt is the micro-batch's own, and stands there once."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from veneer.data.encoded.chat import Example
from veneer.data.micro_batches.beside import document_places, laid_beside
from veneer.data.micro_batches.packing import pack
from veneer.data.micro_batches.prompt_groups import prompt_length


def text(prompt: list[int], answer: list[int]) -> Example:
    tokens = np.array([*prompt, *answer], dtype=np.int32)
    return Example(tokens, np.arange(len(tokens)) >= len(prompt), "f")


def drawn(source: np.random.Generator, count: int) -> list[int]:
    found: list[int] = source.integers(1, 50, count).tolist()
    return found


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("layout", [{"prompts": True}, {"share": True}, {"share": False}])
def test_every_text_reads_its_prompt_from_the_micro_batch_and_nothing_else(seed: int, layout: dict[str, bool]) -> None:
    """Answers to one prompt, answers that begin alike, and a system prompt that all of them have."""
    source = np.random.default_rng(seed)
    system = drawn(source, int(source.integers(0, 4)))
    prompts = [[*system, 60 + number, *drawn(source, int(source.integers(0, 9)))] for number in range(4)]
    rows = [
        text(prompts[number // 2], [*([70, 71] * int(source.integers(0, 2))), 80 + number, *drawn(source, 3)])
        for number in range(8)
    ]
    (batch,) = pack(rows, 10**6, pad_to_multiple_of=16, **layout)
    document = {number: place for place, number in enumerate(batch.numbers)}
    examples = [text(prompts[number // 2], [90, 91, 92 + number]) for number in (5, 0, 1, 6, 7)]
    behind = [document[number] for number in (5, 0, 1, 6, 7)]
    beside = laid_beside(batch, examples, behind, 16)
    laid = beside.batch
    assert len(beside.own) % 16 == 0
    together = torch.cat((batch.tokens, laid.tokens[beside.own]))
    assert torch.equal(together[beside.sources], laid.tokens)
    positions = torch.cat((batch.positions, laid.positions[beside.own]))
    assert torch.equal(positions[beside.sources], laid.positions)
    computed = 0
    for places, number in zip(document_places(laid), laid.numbers, strict=True):
        assert laid.tokens[torch.from_numpy(places)].tolist() == examples[number].tokens.tolist()
        read = beside.sources.numpy()[places] < len(batch.tokens)
        assert read.tolist() == [place < prompt_length(examples[number]) for place in range(len(places))]
        where = beside.sources.numpy()[places][read].tolist()
        asked = rows[batch.numbers[behind[number]]].tokens[: len(where)].tolist()
        documents = zip(document_places(batch), batch.numbers, strict=True)
        alike = [own for own, row in documents if rows[row].tokens[: len(where)].tolist() == asked]
        assert where in [own[: len(where)].tolist() for own in alike]
        computed += int((~read).sum())
    assert len(beside.own) - laid.filler == computed - 2 * 2, "two prompts have two texts each, which begin with 90, 91"
