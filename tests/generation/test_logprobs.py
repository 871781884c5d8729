"""Log-probabilities of tokens, and of those of a prompt as its logits come."""

from __future__ import annotations

import math

import pytest
import torch

from veneer.generation.logprobs import prompt_logprobs, token_logprob
from veneer.generation.sequence import SequenceState


def test_a_token_has_its_log_probability_and_the_likeliest_ones() -> None:
    found = token_logprob(torch.tensor([0.0, math.log(2.0), math.log(5.0)]), 0, 2)
    assert found.token == 0
    assert found.logprob == pytest.approx(math.log(1 / 8))
    assert [token for token, _ in found.top] == [2, 1]
    assert found.top[0][1] == pytest.approx(math.log(5 / 8))
    assert len(token_logprob(torch.zeros(3), 1, 20).top) == 3


def test_pieces_of_a_prompt_give_what_the_whole_one_does_and_answers_are_left_out() -> None:
    logits = torch.randn(6, 9, generator=torch.Generator().manual_seed(0))
    sequence = SequenceState(
        number=0, adapter="", root=None, tokens=[4, 1, 8, 2, 5, 7], prompt_tokens=5, capacity=9, computed=0
    )
    whole = prompt_logprobs(logits, 0, sequence, 2)
    assert [one.token for one in whole] == [1, 8, 2, 5]
    pieces = [one for start in (0, 2, 4) for one in prompt_logprobs(logits[start : start + 2], start, sequence, 2)]
    assert pieces == whole
