"""Ids under which the files end an answer, and which no token of the model has."""

from __future__ import annotations

from veneer.bounds import ids_given
from veneer.io.protocol import Checkpoint

KEY = "eos_token_id"


def end_notes(checkpoint: Checkpoint, vocab_size: int) -> tuple[str, ...]:
    """Notes on the ends that the files name: one sentence on ids without a token, or nothing.

    Args:
        checkpoint: the model.
        vocab_size: the number of tokens of the model, from 0 on.
    """
    value = checkpoint.generation_config.get(KEY)
    strange = [one for one in ids_given(value) if not 0 <= one < vocab_size]
    if not strange:
        return ()
    return (
        f"the configuration of {checkpoint.source} ends answers at {KEY} {value!r}, but the model has the tokens "
        f"0 to {vocab_size - 1}: {', '.join(map(str, strange))} can never be produced. Answers end only at the "
        f"tokenizer's end of text and the template's end of turn; if they run on, correct {KEY}.",
    )
