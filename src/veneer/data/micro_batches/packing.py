"""The examples of a step are packed into micro-batches: end to end, with common beginnings packed once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from veneer.data.encoded.chat import Example
from veneer.data.lazy_sequence import LazySequence
from veneer.data.micro_batches.batches import Block, MicroBatch
from veneer.data.micro_batches.filling import fill, fill_prompts
from veneer.data.micro_batches.prompt_groups import common_beginning
from veneer.errors import DataError
from veneer.padding import PAD_TO_MULTIPLE_OF, pad_to_multiple


def pack(
    examples: Sequence[Example],
    max_tokens: int,
    *,
    share: bool = True,
    pad_to_multiple_of: int = PAD_TO_MULTIPLE_OF,
    together: int = 1,
    numbers: Sequence[int] | None = None,
    sizes: Sequence[int] | None = None,
    prompts: bool = False,
) -> LazySequence[MicroBatch]:
    """Pack a step's examples into micro-batches of at most `max_tokens` tokens. Each is packed when it is requested,
    and again every time: an evaluation is one step of all of its rows, and only one of its micro-batches is needed at a
    time.

    The method is first-fit decreasing (at most 11/9 of the fewest possible micro-batches). Ties and the layout within a
    micro-batch keep the given order, so equal examples are always packed alike. Documents are never split: one that is
    longer than `max_tokens` gets its own micro-batch.

    Args:
        examples: the examples of one step.
        max_tokens: the most tokens of a micro-batch, at least 1.
        share: whether tokens with which all documents of a micro-batch begin are packed only once. The result is equal
            up to rounding, except with dropout, which then drops the same inputs for all of them.
        pad_to_multiple_of: each micro-batch is padded to a multiple of this number of tokens, with a document that
            nothing is learned from.
        together: the number of consecutive examples that are one row, which is never cut: 2 for pairs.
        numbers: the index of each example among the examples of the run; by default its index in `examples`.
        sizes: the number of tokens that each row counts for; by default those of all of its examples.
        prompts: whether examples with the same prompt are kept in one micro-batch as far as they fit, so that `share`
            packs it once for all of them. It has no effect if nothing is shared, or for rows of several examples, which
            share theirs.

    Raises:
        DataError: `max_tokens` is not positive.
    """
    if max_tokens < 1:
        raise DataError(f"max_tokens is {max_tokens}; a micro-batch has at least one token")
    places_in_run = range(len(examples)) if numbers is None else numbers
    filled: Sequence[list[list[int]]]
    if prompts and share and together == 1:
        filled = fill_prompts(examples, max_tokens)
    else:
        if sizes is None:
            sizes = row_lengths([len(example.tokens) for example in examples], together)
        rows = fill(sizes, max_tokens)
        filled = LazySequence(len(rows), lambda number: [parts_of(row, together) for row in rows[number]])

    def laid(number: int) -> MicroBatch:
        groups = filled[number]
        places = [place for group in groups for place in group]
        documents = [examples[place] for place in places]
        apart = [Block(0, tuple(len(one.tokens) for one in documents))]
        blocks = layout(documents, [len(group) for group in groups]) if share else apart
        numbered = tuple(int(places_in_run[place]) for place in places)
        return lay(documents, blocks, pad_to_multiple_of, together, numbered)

    return LazySequence(len(filled), laid)


def parts_of(row: int, together: int) -> list[int]:
    """The indices of the examples that a row consists of."""
    return list(range(row * together, (row + 1) * together))


def row_lengths(lengths: Sequence[int], together: int) -> list[int]:
    """The tokens of each row if each consists of `together` consecutive examples of these lengths."""
    return [sum(lengths[start : start + together]) for start in range(0, len(lengths), together)]


def layout(documents: Sequence[Example], groups: Sequence[int]) -> list[Block]:
    """The blocks of documents: all after one common beginning, or each group after its own, whichever packs fewer
    tokens.

    Args:
        documents: the documents of a micro-batch.
        groups: the numbers of consecutive documents that belong together: those of a pair, or of a prompt. Documents
            that follow each other and belong to nothing are in one block.
    """
    whole = block_of(documents)
    if max(groups) == 1:
        return [whole]
    found: list[Block] = []
    start, alone = 0, False
    for size in groups:
        block = block_of(documents[start : start + size])
        if size == 1 and alone:
            block = Block(0, (*found.pop().lengths, *block.lengths))
        found.append(block)
        start, alone = start + size, size == 1
    return found if sum(block.tokens for block in found) < whole.tokens else [whole]


def block_of(documents: Sequence[Example]) -> Block:
    """The block of documents with the beginning that all of them have."""
    shared = common_beginning(documents)
    return Block(shared, tuple(len(document.tokens) - shared for document in documents))


def lay(
    documents: Sequence[Example],
    blocks: Sequence[Block],
    pad_to_multiple_of: int,
    together: int,
    numbers: tuple[int, ...],
    elsewhere: int = 0,
) -> MicroBatch:
    """The micro-batch of documents that are packed in these blocks.

    Args:
        documents: the documents in the order of the blocks.
        blocks: the blocks.
        pad_to_multiple_of: see `pack`.
        together: see `pack`.
        numbers: the index of each document among the examples of the run.
        elsewhere: the number of tokens that another pass computes; the others are padded.
    """
    tokens, positions, targets, rows = [], [], [], []
    laid, waiting = 0, iter(documents)
    for block in blocks:
        own = [next(waiting) for _ in block.lengths]
        tokens += [own[0].tokens[: block.shared], *(document.tokens[block.shared :] for document in own)]
        positions += [np.arange(block.shared), *(np.arange(block.shared, len(document.tokens)) for document in own)]
        start = laid + block.shared
        for document, length in zip(own, block.lengths, strict=True):
            # Nothing predicts the first token of a document: the token before it belongs to another document.
            after = np.flatnonzero(document.loss_mask[1:]).astype(np.int64)
            targets.append(document.tokens[after + 1])
            rows.append(np.where(after < block.shared, laid + after, after - block.shared + start))
            start += length
        laid += block.tokens
    own_tokens = laid - elsewhere
    filler = np.zeros(pad_to_multiple(own_tokens, pad_to_multiple_of) - own_tokens, dtype=np.int64)
    return MicroBatch(
        tokens=torch.from_numpy(np.concatenate((*tokens, filler)).astype(np.int64)),
        positions=torch.from_numpy(np.concatenate((*positions, filler)).astype(np.int64)),
        shared=blocks[0].shared if len(blocks) == 1 else 0,
        lengths=tuple(length for block in blocks for length in block.lengths),
        filler=len(filler),
        targets=torch.from_numpy(np.concatenate(targets).astype(np.int64)),
        rows=torch.from_numpy(np.concatenate(rows)),
        blocks=tuple(blocks) if len(blocks) > 1 else (),
        counts=tuple(len(own) for own in targets),
        numbers=numbers,
        together=together,
    )
