from __future__ import annotations

import threading
from typing import Any

import pytest

from helpers.servers.endpoints import endpoint, said
from veneer.data.forms.turns import Message
from veneer.errors import OutputError
from veneer.evaluation.judge.ahead import AHEAD, RefusedError, ask_ahead
from veneer.evaluation.judge.endpoint import EndpointAnswerer
from veneer.runtime.signals import Stopped

AT_ONCE = 3


def test_all_questions_are_asked_and_few_of_them_ahead() -> None:
    under_way, most, answers = [0], [0], dict[int, str]()

    def ask(question: str, halt: threading.Event) -> str:
        under_way[0] += 1
        most[0] = max(most[0], under_way[0] - len(answers))
        if question == "3":
            raise RefusedError("too long")
        return question * 2

    assert ask_ahead(ask, [str(number) for number in range(40)], AT_ONCE, answers.__setitem__) == {3: "too long"}
    assert answers == {number: str(number) * 2 for number in range(40) if number != 3}
    assert most[0] <= AHEAD * AT_ONCE + 1


def test_a_refusal_for_all_is_told_of_every_question_that_was_not_asked() -> None:
    asked = []

    def ask(question: int, halt: threading.Event) -> str:
        asked.append(question)
        raise RefusedError("no such key", for_all=True)

    problems = ask_ahead(ask, range(50), AT_ONCE, print)
    assert sorted(problems) == list(range(50))
    assert len(asked) <= AHEAD * AT_ONCE
    assert problems[0] == "no such key"
    assert problems[49] == "not asked, after the others were refused"


@pytest.mark.parametrize("error", [OutputError("the disk is full"), Stopped(), KeyboardInterrupt()], ids=repr)
def test_few_questions_are_asked_after_an_answer_that_could_not_be_kept(error: BaseException) -> None:
    asked: list[str] = []
    kept: dict[int, str] = {}

    def reply(content: dict[str, Any], headers: dict[str, str]) -> tuple[int, Any]:
        asked.append(content["messages"][0]["content"])
        return said("yes")

    def keep(number: int, answer: str) -> None:
        if len(kept) == 2 and not raised:
            raised.append(error)
            raise error
        kept[number] = answer

    raised: list[BaseException] = []
    questions: list[list[Message]] = [[{"role": "user", "content": str(number)}] for number in range(60)]
    with endpoint(reply) as url:
        answerer = EndpointAnswerer(url=url, model="m", key=None, max_tokens=9, at_once=AT_ONCE, retries=2)
        with pytest.raises(type(error)):
            answerer.answer(questions, keep)
    assert len(asked) <= 3 + 2 * AT_ONCE
    if not isinstance(error, OutputError):
        assert sorted(kept) == sorted(map(int, asked))  # what was asked has been kept


def test_a_question_that_waits_to_be_asked_again_waits_no_longer_once_all_is_stopped() -> None:
    first = threading.Event()

    def reply(content: dict[str, Any], headers: dict[str, str]) -> tuple[int, Any]:
        if content["messages"][0]["content"] == "busy":
            first.set()
            return 503, {}
        first.wait(30)
        return said("yes")

    def keep(number: int, answer: str) -> None:
        raise Stopped

    with endpoint(reply) as url:
        answerer = EndpointAnswerer(
            url=url, model="m", key=None, max_tokens=9, at_once=2, retries=3, pause=3600.0
        )  # without the stop it would take hours
        with pytest.raises(Stopped):
            answerer.answer([[{"role": "user", "content": text}] for text in ("busy", "fine")], keep)
