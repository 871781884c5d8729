"""How a completion ends: what was held back is told, and why it ended stays true."""

from __future__ import annotations

from collections.abc import Sequence as Tokens

import pytest
import torch

from veneer.generation.completion import Completion
from veneer.generation.request import Finished, FinishReason, GenerationEvent, GenerationHandle, GenerationRequest
from veneer.generation.runner import StepOutput
from veneer.generation.sequence import Sequence

NEWLINE = 10


class Bytes:
    """A tokenizer one of whose tokens is a byte, which may go on with another one."""

    byte_tokens = frozenset({NEWLINE})

    def decode(self, tokens: Tokens[int], *, skip_special_tokens: bool = True) -> str:
        return "".join("\n" if token == NEWLINE else "x" for token in tokens)


@pytest.mark.parametrize(
    ("reason", "told", "stop"),
    [
        (FinishReason.LENGTH, FinishReason.STOP, "\n"),
        (FinishReason.ERROR, FinishReason.ERROR, None),
        (FinishReason.CANCELLED, FinishReason.CANCELLED, None),
    ],
)
def test_a_stop_string_in_what_was_held_back_ends_an_answer_that_nothing_else_has_ended(
    reason: FinishReason, told: FinishReason, stop: str | None
) -> None:
    events: list[GenerationEvent] = []
    handle = GenerationHandle(GenerationRequest(prompt=(1,), stop=("\n",)), events.append)
    sequence = Sequence(number=0, adapter="", root=None, tokens=[1], prompt_tokens=1, capacity=99)
    completion = Completion(handle, sequence, Bytes(), frozenset())
    assert completion.next_token(StepOutput(torch.zeros(1, 12), NEWLINE)) is None, "the byte is held back"
    completion.finish(reason)
    last = events[-1]
    assert isinstance(last, Finished)
    assert (last.reason, last.stop, last.text) == (told, stop, "")
