"""Pieces of long texts, against the tokens that they were cut from."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from veneer.data.encoded.chat import Example
from veneer.data.encoded.pieces import pieces


@settings(max_examples=200, deadline=None)
@given(st.integers(3, 200), st.integers(2, 40), st.booleans())
def test_every_token_is_predicted_once_and_from_its_own_predecessor(length: int, limit: int, bos: bool) -> None:
    if length <= limit:
        return
    tokens = np.arange(100, 100 + length, dtype=np.int32)
    mask = np.ones(length, dtype=np.bool_)
    mask[0] = False
    beginning = [7] if bos else []
    found = pieces(Example(tokens, mask, "f:1"), limit, beginning)
    assert len(found) > 1
    targets = []
    for piece in found:
        assert 2 <= len(piece.tokens) <= limit
        assert piece.where == "f:1"
        assert not piece.loss_mask[0]
        places = np.flatnonzero(piece.loss_mask)
        targets += piece.tokens[places].tolist()
        assert (piece.tokens[places] == piece.tokens[places - 1] + 1).all(), "each target follows its own predecessor"
    assert targets == tokens[1:].tolist()
    if bos and limit > 2:
        assert all(piece.tokens[0] == 7 and not piece.loss_mask[:2].any() for piece in found[1:])
