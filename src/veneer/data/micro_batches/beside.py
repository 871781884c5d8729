"""Further answers to the prompts of a micro-batch, packed so that each prompt is computed once for both."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from veneer.data.encoded.chat import Example
from veneer.data.micro_batches.batches import Beside, Block, MicroBatch
from veneer.data.micro_batches.packing import block_of, lay
from veneer.data.micro_batches.prompt_groups import by_prompt, prompt_length


def laid_beside(
    batch: MicroBatch, examples: Sequence[Example], behind: Sequence[int], pad_to_multiple_of: int
) -> Beside:
    """Pack examples next to a micro-batch whose documents have their prompts.

    Examples with the same prompt are in one block, after everything that they begin with.

    Args:
        batch: the micro-batch.
        examples: the examples, no two of them equal.
        behind: for each example the index of a document of the micro-batch that begins with its prompt.
        pad_to_multiple_of: the tokens that are in no prompt are padded to a multiple of this number.

    Returns:
        The texts to compute with the micro-batch; the numbers of its documents are indices in `examples`.
    """
    places = document_places(batch)
    blocks: list[Block] = []
    order: list[int] = []
    sources: list[NDArray[np.int64]] = []
    computed = len(batch.tokens)
    for group in by_prompt(examples):
        block, prompt = block_of([examples[number] for number in group]), prompt_length(examples[group[0]])
        own = block.tokens - prompt
        sources += [places[behind[group[0]]][:prompt], np.arange(computed, computed + own)]
        computed += own
        blocks.append(block)
        order += group
    elsewhere = sum(block.tokens for block in blocks) - (computed - len(batch.tokens))
    laid = lay([examples[number] for number in order], blocks, pad_to_multiple_of, 1, tuple(order), elsewhere=elsewhere)
    source = np.concatenate((*sources, np.arange(computed, computed + laid.filler)))
    return Beside(
        batch=laid,
        sources=torch.from_numpy(source),
        own=torch.from_numpy(np.flatnonzero(source >= len(batch.tokens))),
    )


def document_places(batch: MicroBatch) -> list[NDArray[np.int64]]:
    """The positions of each document's tokens in a micro-batch, including a shared beginning, `[length]` each."""
    found, start = [], 0
    for block in batch.blocks or (Block(batch.shared, batch.lengths),):
        beginning = np.arange(start, start + block.shared)
        start += block.shared
        for length in block.lengths:
            found.append(np.concatenate((beginning, np.arange(start, start + length))))
            start += length
    return found
