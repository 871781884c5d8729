"""Log-probabilities of tokens under the model's own logits."""

from __future__ import annotations

import torch
from torch import Tensor

from veneer.generation.request import TokenLogprob
from veneer.generation.sequence import SequenceState


def token_logprob(logits: Tensor, token: int, top: int) -> TokenLogprob:
    """The log-probability of a token under the logits `[vocab]` before it, with those of the `top` likeliest."""
    scores = torch.log_softmax(logits.double(), dim=-1)
    values, tokens = scores.topk(min(top, len(scores)))
    return TokenLogprob(token, float(scores[token]), tuple(zip(tokens.tolist(), values.tolist(), strict=True)))


def prompt_logprobs(logits: Tensor, start: int, sequence: SequenceState, top: int) -> list[TokenLogprob]:
    """The log-probabilities of the prompt's tokens that follow some tokens, each under its own logits.

    Args:
        logits: the logits of some tokens of the sequence, `[tokens, vocab]`.
        start: the place of the first of these tokens.
        sequence: the sequence; tokens after its prompt are left out.
        top: see `token_logprob`.
    """
    following = sequence.tokens[start + 1 : min(start + 1 + len(logits), sequence.prompt_tokens)]
    return [token_logprob(row, token, top) for row, token in zip(logits, following, strict=False)]
