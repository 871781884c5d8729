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
    """Those of the tokens of a prompt that come next, each under its own logits.

    Args:
        logits: of some tokens of the sequence, `[tokens, vocab]`.
        start: the place of the first of them.
        sequence: has the tokens; what is behind its prompt is left out.
        top: see `token_logprob`.
    """
    following = sequence.tokens[start + 1 : min(start + 1 + len(logits), sequence.prompt_tokens)]
    return [token_logprob(row, token, top) for row, token in zip(logits, following, strict=False)]
