"""The Chat page in Debian's Chromium, with answers that the tests make up."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from helpers.processes.job_workers import wait_for
from helpers.run_folders.run_logs import write_run
from helpers.servers.browsing import CHROMIUM, Intercepted, Watched
from helpers.servers.studios import Opened

pytest.importorskip("playwright.sync_api", reason="playwright drives the browser")
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="Debian's chromium is not installed"),
    pytest.mark.slow,
]
ANSWERS = "**/v1/chat/completions"
PREFERENCES = "**/studio/preferences"
BETTER = "This one is better"


@pytest.fixture
def page(watched: Watched) -> Iterator[Any]:
    """The Chat page of a base with two adapters, each of which answers with its name."""
    found = watched.page

    def offer(route: Any) -> None:
        known = route.fetch().json()
        adapters = {"claims": "model", "second": "model"}
        route.fulfill(json={**known, "models": ["model"], "adapters": adapters, "preferences": False})

    found.route("**/studio/options", offer)
    found.route(ANSWERS, lambda route: answer(route))
    watched.go("chat?model=claims")
    found.get_by_label("model 2").wait_for()
    yield found
    # What a test has broken off itself is no error of the page.
    watched.errors[:] = [error for error in watched.errors if "ERR_FAILED" not in error and "502" not in error]


def answer(route: Any, reason: str | None = "stop") -> None:
    """A model's answer: its name."""
    text = f"by {route.request.post_data_json['model']}"
    pieces = [{"choices": [{"delta": {"content": text}}]}, {"choices": [{"delta": {}, "finish_reason": reason}]}]
    pieces.append({"choices": [], "usage": {"completion_tokens": 5, "prompt_tokens": 3}})
    lines = "".join(f"data: {json.dumps(piece)}\n\n" for piece in pieces)
    route.fulfill(content_type="text/event-stream", body=f"{lines}data: [DONE]\n\n")


def ask(page: Any, question: str) -> None:
    page.fill("#question", question)
    page.get_by_role("button", name="Ask", exact=True).click()
    page.locator(".turn", has_text=question).wait_for()


def test_one_answer_is_kept_as_the_better_one_however_often_it_is_clicked(page: Any, opened: Opened) -> None:
    before = opened.http.get("/studio/preferences").text.count("\n")
    ask(page, "0: parcel?")
    better = page.get_by_role("button", name=BETTER)
    better.nth(1).wait_for()
    marks = Intercepted(page, PREFERENCES)
    # Clicks that come before the page is drawn again, and one on the other answer.
    page.evaluate(f"""[...document.querySelectorAll('.answer button')].filter((one) => one.textContent === '{BETTER}')
                      .forEach((one) => {{ one.click(); one.click(); }})""")
    wait_for(lambda: better.nth(1).is_disabled())
    for route in marks.arrived(1):
        route.continue_()
    page.get_by_text("Kept as the better one").wait_for()
    rows = opened.http.get("/studio/preferences").text.splitlines()
    assert len(marks.waiting) == 1
    assert len(rows) == before + 1
    assert json.loads(rows[-1])["chosen"][0]["content"] == "by model"


def test_a_mark_that_is_kept_late_belongs_to_its_own_question_and_stays_kept(page: Any, opened: Opened) -> None:
    before = opened.http.get("/studio/preferences").text.count("\n")
    ask(page, "0: parcel?")
    marks = Intercepted(page, PREFERENCES)
    page.get_by_role("button", name=BETTER).first.click()
    marks.arrived(1)
    ask(page, "5: crate?")
    with page.expect_response(PREFERENCES):
        marks.release()
    page.get_by_text(f"{before + 1} kept").wait_for()
    assert page.get_by_text("Kept as the better one").count() == 0
    assert page.get_by_role("button", name="Train on preferences").is_enabled()
    page.get_by_role("button", name=BETTER).first.click()
    page.get_by_text("Kept as the better one").wait_for()
    ask(page, "6: crate?")
    page.get_by_text(f"{before + 2} kept").wait_for()
    assert page.get_by_role("button", name="Train on preferences").is_enabled()


def test_no_card_waits_for_an_answer_that_does_not_come(page: Any) -> None:
    answers = Intercepted(page, ANSWERS)
    ask(page, "0: parcel?")
    page.locator(".answer", has_text="…").nth(1).wait_for()
    # Another model is chosen meanwhile: the cards are those of the models that were asked.
    page.get_by_label("model 2").select_option("second")
    page.get_by_role("button", name="Stop", exact=True).click()
    page.locator(".answer", has_text="Stopped.").nth(1).wait_for()
    assert page.locator(".answer h2").all_inner_texts() == ["model", "claims"]
    assert page.locator(".answer", has_text="…").count() == 0
    answers.let_through()
    ask(page, "1: parcel?")
    page.locator(".answer", has_text="by second").wait_for()
    page.get_by_role("button", name="Add a model").click()
    page.get_by_label("model 3").wait_for()
    assert page.locator(".answer h2").all_inner_texts() == ["model", "second"]


@pytest.mark.parametrize(
    ("reason", "said"), [("length", "The answer was cut here"), (None, "The answer broke off here")]
)
def test_an_answer_that_is_not_whole_is_no_better_one(page: Any, reason: str | None, said: str) -> None:
    page.route(
        ANSWERS, lambda route: answer(route, "stop" if route.request.post_data_json["model"] == "model" else reason)
    )
    ask(page, "0: parcel?")
    page.locator(".answer", has_text="by claims").get_by_text(said).wait_for()
    page.locator(".answer", has_text="by model").get_by_role("button", name=BETTER).wait_for()
    assert page.get_by_role("button", name=BETTER).count() == 1


def test_question_and_answers_are_there_again_after_a_step_aside(page: Any, watched: Watched) -> None:
    ask(page, "0: parcel?")
    page.get_by_role("button", name=BETTER).first.click()
    page.get_by_text("Kept as the better one").wait_for()
    page.fill("#question", "half a que")
    watched.go("queue")
    page.get_by_role("heading", name="Queue").wait_for()
    page.go_back()
    page.get_by_text("Kept as the better one").wait_for()
    assert page.input_value("#question") == "half a que"
    assert page.locator(".answer h2").all_inner_texts() == ["model", "claims"]
    # An answer that was under way is given up, and says so.
    answers = Intercepted(page, ANSWERS)
    ask(page, "1: parcel?")
    answers.arrived(2)
    with page.expect_event("requestfailed"):
        watched.go("queue")
    page.go_back()
    page.locator(".answer", has_text="Stopped.").nth(1).wait_for()


def test_a_link_to_a_model_that_is_not_there_says_so(page: Any, watched: Watched) -> None:
    watched.go("chat?model=gone")
    watched.sees("The model gone does not exist")
    assert page.get_by_label("model 2").input_value() == "claims"


def test_the_keyboard_stays_where_one_asks_and_marks(page: Any) -> None:
    focused = "one => one === document.activeElement"
    answers = Intercepted(page, ANSWERS)
    page.fill("#question", "0: parcel?")
    button = page.locator("button.main")
    button.focus()
    page.keyboard.press("Enter")
    answers.arrived(2)
    assert button.inner_text() == "Answering …"
    assert button.evaluate(focused)
    for route in answers.waiting:
        answer(route)
    better = page.get_by_role("button", name=BETTER)
    better.nth(1).wait_for()
    assert button.evaluate(focused)
    better.first.focus()
    page.keyboard.press("Enter")
    kept = page.get_by_role("button", name="Kept as the better one")
    kept.wait_for()
    assert kept.evaluate(focused)


def test_a_studio_that_does_not_answer_is_said_in_every_answer(page: Any) -> None:
    page.route(ANSWERS, lambda route: route.abort())
    ask(page, "0: parcel?")
    page.locator(".answer", has_text="The studio does not answer").nth(1).wait_for()
    page.route(ANSWERS, lambda route: route.fulfill(status=502, content_type="text/html", body="<html>bad gateway"))
    ask(page, "1: parcel?")
    page.locator(".answer", has_text="the studio answers 502").nth(1).wait_for()


def test_an_adapter_whose_run_is_deleted_is_no_base(page: Any, opened: Opened) -> None:
    ask(page, "0: parcel?")
    tag = page.locator(".answer", has_text="by claims").locator(".tag")
    assert tag.inner_text() == "adapter"
    left = {"models": ["model"], "adapters": {"second": "model"}, "preferences": False, "judges": [], "metrics": []}
    page.route("**/studio/options", lambda route: route.fulfill(json=left))
    # What can be chosen is asked for when a run has ended.
    write_run(opened.studio.root / "ended", 1)
    opened.studio.watcher.look()
    wait_for(lambda: tag.inner_text() == "gone")


def test_nothing_moves_when_the_first_mark_is_kept(page: Any, opened: Opened) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    ask(page, "0: parcel?")
    page.get_by_role("button", name=BETTER).first.wait_for()
    place = "document.querySelector('#question').getBoundingClientRect().top + scrollY"
    before = page.evaluate(place)
    page.get_by_role("button", name=BETTER).first.click()
    page.get_by_text(re.compile("[0-9]+ kept")).wait_for()
    assert page.evaluate(place) == before
