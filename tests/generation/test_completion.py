"""How a completion ends: what was held back is told, and why it ended stays true."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from veneer.errors import ConfigError
from veneer.generation.completion import Completion
from veneer.generation.request import Finished, FinishReason, GenerationEvent, GenerationHandle, GenerationRequest
from veneer.generation.runner import StepOutput
from veneer.generation.sampling import Sampling
from veneer.generation.sequence import SequenceState

NEWLINE, HALF = 10, 11
WRONG = "\ufffd"


class Bytes:
    """A tokenizer two of whose tokens are bytes, one of which is no character without another one."""

    byte_tokens = frozenset({NEWLINE, HALF})

    def decode(self, tokens: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        return "".join({NEWLINE: "\n", HALF: WRONG}.get(token, "x") for token in tokens)


def completion_of(stop: str, events: list[GenerationEvent]) -> Completion:
    handle = GenerationHandle(GenerationRequest(prompt=(1,), stop=(stop,)), events.append)
    sequence = SequenceState(number=0, adapter="", root=None, tokens=[1], prompt_tokens=1, capacity=99)
    return Completion(handle, sequence, Bytes(), frozenset())


def test_a_stop_string_that_is_a_byte_ends_an_answer_at_once() -> None:
    events: list[GenerationEvent] = []
    completion = completion_of("\n", events)
    assert completion.next_token(StepOutput(torch.zeros(1, 12), 5)) is None
    assert completion.next_token(StepOutput(torch.zeros(1, 12), NEWLINE)) is FinishReason.STOP
    completion.finish(FinishReason.STOP)
    assert [event.text for event in events] == ["x", "", ""]
    last = events[-1]
    assert isinstance(last, Finished)
    assert (last.stop, last.new_tokens) == ("\n", 2)


@pytest.mark.parametrize(
    ("reason", "told", "stop"),
    [
        (FinishReason.LENGTH, FinishReason.STOP, WRONG),
        (FinishReason.ERROR, FinishReason.ERROR, None),
        (FinishReason.CANCELLED, FinishReason.CANCELLED, None),
    ],
)
def test_a_stop_string_in_what_was_held_back_ends_an_answer_that_nothing_else_has_ended(
    reason: FinishReason, told: FinishReason, stop: str | None
) -> None:
    events: list[GenerationEvent] = []
    completion = completion_of(WRONG, events)
    assert completion.next_token(StepOutput(torch.zeros(1, 12), HALF)) is None, "the byte is held back"
    completion.finish(reason)
    last = events[-1]
    assert isinstance(last, Finished)
    assert (last.reason, last.stop, last.text) == (told, stop, "")


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_an_answer_of_which_no_token_may_come_next_is_refused(temperature: float) -> None:
    """A greedy one took the first token, which was forbidden as all others."""
    sampling = Sampling(min_new_tokens=2, temperature=temperature)
    handle = GenerationHandle(GenerationRequest(prompt=(1,), sampling=sampling), [].append)
    sequence = SequenceState(number=0, adapter="", root=None, tokens=[1], prompt_tokens=1, capacity=99)
    completion = Completion(handle, sequence, None, frozenset(range(12)))
    with pytest.raises(ConfigError, match="no token may come next"):
        completion.next_token(StepOutput(torch.zeros(1, 12), 0))
