"""The questions of a self-check: reproducible, and such that a mixed answer would show."""

from __future__ import annotations

from veneer.serving.selfcheck.questions import BEGINNING_LENGTHS, MOST_SEQUENCE_TOKENS, draw_questions


def test_questions_follow_from_the_seed_and_share_beginnings_under_all_names() -> None:
    questions = draw_questions(1000, ["a", "b"], 300, seed=3)
    assert questions == draw_questions(1000, ["a", "b"], 300, seed=3)
    assert questions != draw_questions(1000, ["a", "b"], 300, seed=4)
    assert {(one.adapter, one.beginning) for one in questions} == {
        (name, beginning) for name in (None, "a", "b") for beginning in range(len(BEGINNING_LENGTHS))
    }
    long = {one.prompt[: BEGINNING_LENGTHS[-1]] for one in questions if one.beginning == len(BEGINNING_LENGTHS) - 1}
    assert len(long) == 1
    assert all(0 <= token < 300 for one in questions for token in one.prompt)


def test_a_question_means_one_thing_over_http_and_to_the_engine() -> None:
    for question in draw_questions(200, ["a"], 300, seed=1):
        body, request = question.body("a"), question.request()
        assert len(question.prompt) + question.max_tokens <= MOST_SEQUENCE_TOKENS
        assert body["prompt"] == list(request.prompt)
        assert (body["temperature"], body["seed"]) == (request.sampling.temperature, request.sampling.seed)
        assert body["echo"] == (request.prompt_logprobs is not None)
        assert not (body["echo"] and body["stream"])
