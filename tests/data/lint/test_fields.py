from __future__ import annotations

import numpy as np

from veneer.data.chat import Example, Trace
from veneer.data.lint.fields import place, trained_spans
from veneer.data.records import Record

TURNS = ("Sure?", "no", "Really?", "no")
TEXT = "<u>Sure?<a>no<u>Really?<a>no<e>"
FIRST, SECOND = (11, 13), (26, 31)


def placed(*spans: tuple[int, int]) -> tuple[dict[int, tuple[int, int]], list[tuple[int, int]]]:
    """The trained turns' spans, and where the contents are found."""
    roles = ("user", "assistant") * 2
    record = Record("f:1", tuple({"role": r, "content": t} for r, t in zip(roles, TURNS, strict=True)))
    example = Example(np.zeros(1, np.int32), np.zeros(1, np.bool_), "f:1")
    trace = Trace(example, TEXT, [(0, len(TEXT))], spans, spelled=False)
    return trained_spans(record, trace), [(one.start, one.end) for one in place({"messages": []}, record, trace)]


def test_a_turn_that_has_no_span_is_not_given_that_of_another() -> None:
    contents = [(3, 8), FIRST, (16, 23), (26, 28)]
    assert placed(FIRST, SECOND) == ({1: FIRST, 3: SECOND}, contents)
    assert placed(SECOND) == ({}, contents)
