"""Memory of decoding, in a server and in a run that samples: cache, working memory of a step, decoded weights. Also the
memory of scoring texts with a reward model."""

from __future__ import annotations

from collections.abc import Mapping

from veneer.generation.batch import BATCH_ROWS, batch_limits
from veneer.generation.build import CACHE_BYTES
from veneer.generation.cohort import DECODED_LIMIT
from veneer.generation.scheduler import BLOCK_TOKENS
from veneer.padding import PAD_TO_MULTIPLE_OF, pad_to_multiple
from veneer.planning.base import decoded_bytes
from veneer.planning.batch_shape import BatchShape
from veneer.planning.setup import Setup

SCORES_COPIES = 2
"""Float32 tensors of all logits of a step: products, and what is computed from them."""
BLOCKS_BEYOND = 1
"""Blocks of the cache that a sequence needs beyond whole ones, for its last tokens."""
DRAWN_COPIES = 8
"""Float64 numbers that a draw needs for each token of the vocabulary."""
REWARDED_TOKENS = 1024
"""Tokens that a reward model scores at a time."""
HOLES = 0.15
"""Holes in the heap that a cache with changing blocks leaves, as a share of it."""


def sampling_bytes(setup: Setup, batch: BatchShape) -> int:
    """The most bytes that sampling the answers of a step needs, besides the model; 0 if nothing is sampled.

    Args:
        setup: model and method.
        batch: a shape with `sampled` answers in a step, whose prompts and answers have at most `longest` tokens
            together.
    """
    if not batch.sampled:
        return 0
    spec, rows = setup.spec, min(batch.sampled, BATCH_ROWS)
    blocks = -(-batch.longest // BLOCK_TOKENS) + BLOCKS_BEYOND
    row = spec.token_bytes(setup.dtype) * blocks * BLOCK_TOKENS
    cache = min(max(CACHE_BYTES, row), batch.sampled * row)
    scores = SCORES_COPIES * 4 * spec.vocab_size * rows
    total = int((1 + HOLES) * cache) + 4 * batch_limits().step_tokens * step_width(setup) + scores
    total += DRAWN_COPIES * 8 * spec.vocab_size
    if not through_modules(setup):
        return total
    # When a batch shrinks, its remaining rows are copied.
    return total + cache + decoded_for_answers(setup)


def decoded_for_answers(setup: Setup) -> int:
    """Bytes of a base's packed weights, which modules decode once for all answers, unless they are too many."""
    whole = decoded_bytes(setup)
    return whole if whole <= DECODED_LIMIT else 0


def through_modules(setup: Setup) -> bool:
    """Whether the model's own modules compute the answers, because the compiled library does not support all of
    them."""
    ends = bool(setup.updated or setup.saved) or setup.head_is_adapted
    return setup.device != "cpu" or setup.spec.mixture is not None or ends


def scored_texts(batch: BatchShape) -> BatchShape:
    """The texts that a reward model scores at a time, for a step whose answers have the shape `batch`. A text may have
    a few tokens more than its prompt and answer: those of the template after it."""
    longest = pad_to_multiple(batch.longest) + PAD_TO_MULTIPLE_OF
    tokens = max(REWARDED_TOKENS, longest)
    return BatchShape(tokens=tokens, longest=longest, supervised=0, shapes=tokens // PAD_TO_MULTIPLE_OF)


def reference_bytes(setup: Setup) -> int:
    """Bytes of two copies of the trained weights: their values at the start of the run, and their current ones
    meanwhile."""
    return 2 * 4 * setup.trained_weights if setup.reference_copied else 0


def step_width(setup: Setup) -> int:
    """The numbers that the compiled step works with for each row, except logits."""
    spec = setup.spec
    inner = spec.num_heads * spec.head_dim
    widths: Mapping[str, int] = {
        "x, normed, attended, fed": 4 * spec.hidden_size,
        "queries, keys, values, mixed": 2 * inner + 2 * spec.num_kv_heads * spec.head_dim,
        "gate, up, product": 3 * max(linear.outputs for linear in setup.every_linear),
    }
    return sum(widths.values())
