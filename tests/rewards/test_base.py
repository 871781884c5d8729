"""What rewards are told of an answer: in the form of its prompt, as TRL gives it."""

from __future__ import annotations

from veneer.rewards.base import AnswerToJudge


def test_an_answer_to_a_text_is_a_text() -> None:
    answer = AnswerToJudge(where="f:1", prompt="How many?", text="Two.")
    assert answer.completion == "Two."
    assert answer.question == "How many?"


def test_an_answer_to_turns_is_the_assistants_turn() -> None:
    turns = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "How many?"}]
    answer = AnswerToJudge(where="f:1", prompt=turns, text="Two.")
    assert answer.completion == [{"role": "assistant", "content": "Two."}]
    assert answer.question == "How many?"
