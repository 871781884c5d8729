"""The examples of each micro-batch of a step: first-fit decreasing, by their tokens or by their prompts.

If examples share prompts, a micro-batch has room for more of them and is filled better than one whose examples are
counted one by one, which also needs more memory. So prompts are joined only up to the fill of the fullest micro-batch
of the latter kind, and an objective on such rows needs no more memory than fine-tuning on them. The answers to a single
prompt may take all of the allowed room: cutting them would compute their prompt twice.
"""

from __future__ import annotations

from collections.abc import Sequence

from veneer.data.encoded.chat import Example
from veneer.data.micro_batches.prompt_groups import by_prompt, common_beginning, laid_tokens, pieces


def fill(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Choose the examples of each micro-batch (see `pack`): for each, their ascending indices in `lengths`."""
    rooms = _Rooms(len(lengths), max_tokens)
    bins: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        # An example longer than a micro-batch gets its own: only an empty one has all of its room.
        place = rooms.first(min(lengths[index], max_tokens))
        if place == len(bins):
            bins.append([])
        bins[place].append(index)
        rooms.take(place, lengths[index])
    return [sorted(indices) for indices in bins]


class _Rooms:
    """The room left in each of a number of micro-batches, empty at first.

    The first with enough room is found through a tree of maxima. An evaluation packs all of its rows at once, and would
    otherwise look through all micro-batches for each of them.
    """

    def __init__(self, count: int, room: int):
        self._leaves = 1 << max(0, count - 1).bit_length()
        self._most = [room] * (2 * self._leaves)

    def first(self, need: int) -> int:
        """The first micro-batch with this much room; if even an empty one has less, the index after all of them."""
        if self._most[1] < need:
            return self._leaves
        node = 1
        while node < self._leaves:
            node *= 2
            node += self._most[node] < need
        return node - self._leaves

    def take(self, place: int, tokens: int) -> None:
        """Use up the room for this many tokens in a micro-batch."""
        node = place + self._leaves
        self._most[node] -= tokens
        while node > 1:
            node //= 2
            self._most[node] = max(self._most[2 * node], self._most[2 * node + 1])


def fill_prompts(examples: Sequence[Example], max_tokens: int) -> list[list[list[int]]]:
    """Choose the examples of each micro-batch, those with the same prompt together as far as they fit: for each, their
    indices in `examples`, by prompt.

    No micro-batch of several prompts packs more tokens than the fullest one of `fill`. The choice of `fill` is used if
    no two examples have the same prompt, or if it packs fewer tokens in all.
    """
    plain = _by_prompt(examples, fill([len(example.tokens) for example in examples], max_tokens))
    groups = pieces(examples, max_tokens)
    if len(groups) == len(examples):
        return plain
    fullest = max(_behind_one([examples[place] for group in one for place in group]) for one in plain)
    together = _by_prompt(examples, _fill_groups(examples, groups, min(max_tokens, fullest)))
    return min(together, plain, key=lambda filled: sum(_laid(examples, groups) for groups in filled))


def _fill_groups(examples: Sequence[Example], groups: Sequence[Sequence[int]], most: int) -> list[list[int]]:
    """`fill` for groups of examples with the same prompt. The groups are packed after their prompts, or all after what
    every example begins with, whichever packs fewer tokens."""
    shared = common_beginning(examples)
    alone = [laid_tokens([examples[place] for place in group]) for group in groups]
    behind = [sum(len(examples[place].tokens) - shared for place in group) for group in groups]
    bins: list[list[int]] = []
    # The room that is left by either way of packing. The first micro-batch with enough room by one of them is used.
    for_prompts, for_answers = _Rooms(len(groups), most), _Rooms(len(groups), most - shared)
    for index in sorted(range(len(groups)), key=lambda index: (-alone[index], index)):
        place = min(for_prompts.first(alone[index]), for_answers.first(behind[index]), len(bins))
        if place == len(bins):
            bins.append([])
        bins[place].append(index)
        for_prompts.take(place, alone[index])
        for_answers.take(place, behind[index])
    return [[place for index in sorted(indices) for place in groups[index]] for indices in bins]


def _by_prompt(examples: Sequence[Example], filled: Sequence[Sequence[int]]) -> list[list[list[int]]]:
    """The examples of each micro-batch by prompt."""
    return [
        [[places[at] for at in group] for group in by_prompt([examples[place] for place in places])]
        for places in filled
    ]


def _behind_one(documents: Sequence[Example]) -> int:
    """The tokens of documents that are packed after the beginning that all of them have."""
    return sum(len(one.tokens) for one in documents) - common_beginning(documents) * (len(documents) - 1)


def _laid(examples: Sequence[Example], groups: Sequence[Sequence[int]]) -> int:
    """The tokens of a micro-batch whose groups are packed after their prompts, or all after one beginning."""
    alone = sum(laid_tokens([examples[place] for place in group]) for group in groups)
    return min(alone, _behind_one([examples[place] for group in groups for place in group]))
