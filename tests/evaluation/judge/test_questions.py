from __future__ import annotations

import time

import pytest

from veneer.evaluation.judge.questions import DEFAULT_PROMPT, AnswerPair, Choice, questions_of, verdict


def test_both_orders_are_asked_and_answers_that_spell_places_stay_as_they_are() -> None:
    pair = AnswerPair("f:1", "Which colour?", "blue", "{second} is mine", "azure {reference}")
    prompt = "{question}|{reference}|{first}|{second}"
    straight, swapped = questions_of(pair, prompt, "Be fair.")
    assert straight.messages == (
        {"role": "system", "content": "Be fair."},
        {"role": "user", "content": "Which colour?|blue|{second} is mine|azure {reference}"},
    )
    assert swapped.messages[-1]["content"] == "Which colour?|blue|azure {reference}|{second} is mine"
    assert (straight.name, swapped.name) == ("f:1 (first order)", "f:1 (second order)")


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("Both are fine.\nVerdict: tie", Choice.TIE),
        ("Verdict: 1? No, on reflection:\n**Verdict:** 2", Choice.SECOND),
        ("VERDICT: 1.", Choice.FIRST),
        ("Answer 2 is better", None),
        ("Verdict: 12", None),
        ("- Final verdict: **1** (more exact)", Choice.FIRST),
        ("My overall verdict is tie", None),
        ("<think>One could say Verdict: 2 or even Verdict: tie", None),
        ("I am to end with Verdict: 1, Verdict: 2 or Verdict: tie, and cannot.", None),
        ("", None),
        ("Verdict: 1/2", None),
        ("Verdict: 1 and 2 are equally good", None),
        ("Verdict: 1 or 2? Hard. I choose tie", None),
        ("Verdict: 2, since answer 2 is right", Choice.SECOND),
        ("Verdict:\n1", None),
    ],
)
def test_the_last_line_with_a_verdict_counts(answer: str, expected: Choice | None) -> None:
    assert verdict(answer) is expected
    assert verdict(DEFAULT_PROMPT) is Choice.TIE  # what the prompt itself spells is never read


def test_an_answer_of_line_breaks_is_read_at_once() -> None:
    begun = time.process_time()
    assert verdict("\n" * 200_000) is None
    assert verdict("final " * 100_000 + "\nVerdict: 2") is Choice.SECOND
    assert time.process_time() - begun < 5  # it took time squared: half an hour
