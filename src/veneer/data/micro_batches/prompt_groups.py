"""Rows with a common prompt: found, kept next to each other in an epoch, and cut to the size of a micro-batch.

The prompt of a row is everything before its first target. Rows of single answers may have it in common: a good and a
bad answer to one question, as with KTO's labels.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from veneer.data.encoded.chat import Example
from veneer.data.micro_batches.orders import Indices

PROMPTS_IN_STEP = 4
"""The least number of different prompts of a step if rows with the same prompt are kept next to each other."""


def prompt_length(example: Example) -> int:
    """The number of tokens before the first target."""
    return int(np.argmax(example.loss_mask))


def prompt_numbers(examples: Iterable[Example]) -> NDArray[np.int64]:
    """A number for the prompt of each row, equal for equal prompts, `[rows]`; the numbers count from 0 in the order of
    first appearance."""
    known: dict[bytes, int] = {}
    prompts = (example.tokens[: prompt_length(example)].tobytes() for example in examples)
    return np.array([known.setdefault(prompt, len(known)) for prompt in prompts], dtype=np.int64)


def by_prompt(examples: Sequence[Example]) -> list[list[int]]:
    """The indices of the rows of each prompt; prompts and rows are in the order of first appearance."""
    found: dict[int, list[int]] = {}
    for place, number in enumerate(prompt_numbers(examples).tolist()):
        found.setdefault(number, []).append(place)
    return list(found.values())


def pieces(examples: Sequence[Example], max_tokens: int) -> list[list[int]]:
    """`by_prompt`, with groups of more than `max_tokens` tokens cut: each piece has as many of the next rows as fit
    after the prompt, and at least one."""
    found = []
    for group in by_prompt(examples):
        prompt = prompt_length(examples[group[0]])
        room = -1
        for place in group:
            answer = len(examples[place].tokens) - prompt
            if answer > room:
                found.append([place])
                room = max_tokens - prompt - answer
            else:
                found[-1].append(place)
                room -= answer
    return found


def laid_tokens(examples: Sequence[Example]) -> int:
    """The tokens of rows with the same prompt, which is packed once."""
    prompt = prompt_length(examples[0])
    return prompt + sum(len(example.tokens) - prompt for example in examples)


def common_beginning(documents: Sequence[Example]) -> int:
    """The number of tokens that all documents begin with, leaving at least one of each; 0 for a single document."""
    if len(documents) < 2:
        return 0
    shortest = min(len(document.tokens) for document in documents) - 1
    first = documents[0].tokens[:shortest]
    same = np.logical_and.reduce([document.tokens[:shortest] == first for document in documents[1:]])
    return shortest if bool(same.all()) else int(np.argmin(same))


def side_by_side(ordered: Indices, prompts: NDArray[np.int64], most: int) -> Indices:
    """An epoch's order in which rows with the same prompt follow the first of them, so that they meet in a step.

    They are moved in groups of `most`, as they come in the order, to the first of each group. If no two rows have the
    same prompt, the order is not changed.

    Args:
        ordered: the rows of the epoch, each once, `[rows]`.
        prompts: the `prompt_numbers` of all rows.
        most: the most rows that are brought together.
    """
    own = prompts[ordered]
    grouped = np.argsort(own, kind="stable")
    starts = np.flatnonzero(np.diff(own[grouped], prepend=-1))
    within = np.arange(len(own)) - np.repeat(starts, np.diff(starts, append=len(own)))
    leaders = grouped[np.arange(len(own)) - within % most]
    first = np.empty(len(own), dtype=np.int64)
    first[grouped] = leaders
    return ordered[np.argsort(first, kind="stable")]


def rows_together(in_step: int) -> int:
    """The most rows with the same prompt that are brought together, if a step has about `in_step` rows."""
    return max(1, in_step // PROMPTS_IN_STEP)
