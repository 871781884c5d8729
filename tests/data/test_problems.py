from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from veneer.data.problems import MAX_REASON_CHARS, SHOWN_LINES, RowProblem, grouped, printable


def test_reasons_that_differ_in_numbers_and_quoted_values_have_one_cause() -> None:
    rng = random.Random(2)
    causes = {"messages[{}] has no content": 7, "the role '{}' is not known": 4, 'no "{}" here': 1}
    problems = [
        RowProblem(f"f.jsonl:{rng.randrange(10**6)}", cause.format(rng.randrange(10**6)))
        for cause, count in causes.items()
        for _ in range(count)
    ]
    rng.shuffle(problems)
    lines = grouped(problems).splitlines()
    # The cause of most rows comes first; a cause of one row takes one line, and others name their first rows.
    for cause, count in causes.items():
        stem = cause.partition("{")[0]
        of_cause = [problem for problem in problems if problem.reason.startswith(stem)]
        (at,) = [index for index, line in enumerate(lines) if stem in line]
        assert str(of_cause[0]) in lines[at]
        if count > 1:
            named = ", ".join(problem.where for problem in of_cause[:SHOWN_LINES])
            more = f" and {count - SHOWN_LINES} more" if count > SHOWN_LINES else ""
            assert lines[at + 1].strip() == f"({count} rows: {named}{more})"
    assert len(lines) == 5
    assert ["messages" in lines[0], "role" in lines[2], "here" in lines[4]] == [True] * 3


@given(st.text(max_size=MAX_REASON_CHARS + 40))
def test_what_is_shown_is_short_and_controls_no_terminal(text: str) -> None:
    shown = printable(text)
    assert all(character.isprintable() or character == "\n" for character in shown)
    if len(text) <= MAX_REASON_CHARS and text.isprintable():
        assert shown == text
    # An escape is at most ten characters, and of a long text the two ends are kept.
    assert len(shown) <= 10 * (MAX_REASON_CHARS + 3)


def test_both_ends_of_a_long_reason_are_shown() -> None:
    text = "start" + "x" * 2 * MAX_REASON_CHARS + "\x1b[31m end"
    shown = printable(text)
    assert shown.startswith("start")
    assert shown.endswith("\\x1b[31m end")
    assert " … " in shown
