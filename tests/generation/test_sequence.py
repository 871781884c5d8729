from __future__ import annotations

from veneer.generation.sequence import SequenceState, Work


def sequence() -> SequenceState:
    return SequenceState(number=1, adapter="", root=None, tokens=[5, 6, 7, 8], prompt_tokens=3, capacity=9, computed=2)


def test_tokens_are_computed_pending_or_new() -> None:
    one = sequence()
    assert (one.pending, one.answer) == (2, [8])
    one.tokens.append(9)
    one.computed = 5
    assert (one.pending, one.answer) == (0, [8, 9])


def test_logits_are_wanted_of_the_work_that_reaches_the_end() -> None:
    one = sequence()
    assert [Work(one, start, count).ends for start, count in ((0, 3), (2, 2), (0, 4))] == [False, True, True]
