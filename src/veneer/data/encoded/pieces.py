"""A long text in pieces: each is an example of its own, and every token is predicted once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from veneer.data.encoded.chat import Example


def pieces(example: Example, limit: int, beginning: Sequence[int]) -> tuple[Example, ...]:
    """Cut an example into pieces of at most `limit` tokens.

    The first piece is the beginning of the example. Every other piece begins with `beginning` and the last token of the
    previous piece, both as context, followed by the next tokens. So every target of the example is the target of
    exactly one piece and has at least its predecessor before it, and each piece begins like the model's documents.
    Nothing else of one piece is visible to another.

    Args:
        example: a plain text of more than `limit` tokens.
        limit: the most tokens of a piece, at least 2.
        beginning: the tokens at the beginning of every document of the model: its start-of-text token, or none. They
            are left out if a piece has no room for them.

    Returns:
        The pieces. They share the memory of the example's tokens where they can.
    """
    tokens, mask = example.tokens, example.loss_mask
    found = [Example(tokens[:limit], mask[:limit], example.where)]
    opening = np.asarray(beginning if len(beginning) + 1 < limit else (), dtype=np.int32)
    step = limit - len(opening) - 1
    for start in range(limit, len(tokens), step):
        own = tokens[start - 1 : start + step]
        context = np.zeros(len(opening) + 1, dtype=np.bool_)
        found.append(
            Example(
                np.concatenate((opening, own)) if len(opening) else own,
                np.concatenate((context, mask[start : start + step])),
                example.where,
            )
        )
    return tuple(found)
