"""The page at `/`: one file that reaches nothing but its server, and has no place for what a model writes but text."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from openai import OpenAI

from helpers.servers.browsing import CHROMIUM, CONTRAST, Intercepted
from helpers.servers.served import ADAPTER, BASE, call
from veneer.http_server.server import HttpServer


def test_the_page_is_one_file_without_a_network(server: HttpServer) -> None:
    status, headers, body = call(server, "GET", "/")
    page = body.decode()
    assert status == 200
    assert headers["content-type"].startswith("text/html")
    assert not re.findall(r"https?://|//[a-z]|@import|<link|src=", page)
    rules = headers["content-security-policy"]
    assert "default-src 'none'" in rules
    assert "connect-src 'self'" in rules
    (nonce,) = set(re.findall(r'nonce="([^"]+)"', page))
    assert f"script-src 'nonce-{nonce}'" in rules
    assert nonce not in call(server, "GET", "/")[2].decode()


def test_what_a_model_writes_is_text_to_the_page(server: HttpServer) -> None:
    page = call(server, "GET", "/")[2].decode()
    assert not re.findall(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function|\son\w+=", page)
    assert "textContent" in page


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Debian's Chromium, without a window."""
    driver = pytest.importorskip("playwright.sync_api", reason="playwright drives the browser")
    if CHROMIUM is None:
        pytest.skip("Debian's chromium is not installed")
    with driver.sync_playwright() as started:
        found = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.mark.slow
def test_base_and_adapter_answer_side_by_side_in_a_browser(browser: Any, server: HttpServer, client: OpenAI) -> None:
    page = browser.new_context(viewport={"width": 1200, "height": 700}).new_page()
    asked: list[str] = []
    errors: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda said: errors.append(said.text) if said.type in ("error", "warning") else None)
    page.goto(server.url)
    page.locator("select >> nth=1").locator("option >> nth=1").wait_for(state="attached")
    page.select_option("select >> nth=0", BASE)
    page.select_option("select >> nth=1", ADAPTER)
    page.fill("input[name=tokens]", "8")
    page.fill("textarea", "<b>1: late parcel?</b>")
    page.press("textarea", "Enter")
    page.locator("button[name=stop]:disabled").wait_for()
    for side, name in enumerate((BASE, ADAPTER)):
        answer = client.chat.completions.create(
            model=name, messages=[{"role": "user", "content": "<b>1: late parcel?</b>"}], temperature=0, max_tokens=8
        )
        turns = page.locator(".turns").nth(side).locator(".turn")
        assert turns.nth(0).inner_text() == "<b>1: late parcel?</b>"
        assert turns.nth(1).text_content() == answer.choices[0].message.content
    assert page.locator("main b").count() == 0
    assert errors == []
    assert all(url.startswith(server.url) for url in asked)


@pytest.mark.slow
def test_models_that_did_not_come_are_asked_for_again(browser: Any, server: HttpServer) -> None:
    page = browser.new_context().new_page()
    broken = Intercepted(page, "**/v1/models", lambda route: route.abort())
    with page.expect_event("requestfailed"):
        page.goto(server.url)
    broken.let_through()
    page.locator("select >> nth=1").locator("option >> nth=1").wait_for(state="attached")


@pytest.mark.slow
def test_a_question_without_an_answer_is_no_part_of_the_conversation(browser: Any, server: HttpServer) -> None:
    page = browser.new_context().new_page()
    page.goto(server.url)
    page.locator("select >> nth=1").locator("option >> nth=1").wait_for(state="attached")
    page.fill("input[name=tokens]", "4")
    broken = Intercepted(page, "**/v1/chat/completions", lambda route: route.abort())
    page.fill("textarea", "lost")
    page.press("textarea", "Enter")
    page.get_by_text("The server does not answer").nth(1).wait_for()
    broken.let_through()
    page.fill("textarea", "1: late parcel?")
    with page.expect_request("**/v1/chat/completions") as asked:
        page.press("textarea", "Enter")
    page.locator("button[name=stop]:disabled").wait_for()
    assert asked.value.post_data_json["messages"] == [{"role": "user", "content": "1: late parcel?"}]


@pytest.mark.slow
def test_answers_are_stopped_by_the_keyboard_which_is_then_in_the_field(browser: Any, server: HttpServer) -> None:
    page = browser.new_context().new_page()
    page.goto(server.url)
    page.locator("select >> nth=1").locator("option >> nth=1").wait_for(state="attached")
    waiting = Intercepted(page, "**/v1/chat/completions")
    page.fill("textarea", "1: late parcel?")
    page.press("textarea", "Enter")
    waiting.arrived(2)
    page.get_by_role("button", name="Stop").press("Enter")
    page.locator("button[name=stop]:disabled").wait_for()
    assert page.evaluate("document.activeElement.tagName") == "TEXTAREA"
    assert page.get_by_role("heading", level=1).inner_text() == "Two models side by side"
    waiting.let_through()


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_messages_and_errors_are_legible_in_a_narrow_window(browser: Any, server: HttpServer, scheme: str) -> None:
    page = browser.new_context(viewport={"width": 390, "height": 844}, color_scheme=scheme).new_page()
    page.goto(server.url)
    page.locator("select >> nth=1").locator("option >> nth=1").wait_for(state="attached")
    page.fill("input[name=tokens]", "1000000")
    page.fill("textarea", "1: late parcel?")
    page.press("textarea", "Enter")
    page.get_by_text("max_tokens").nth(1).wait_for()
    assert page.evaluate(CONTRAST) == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.slow
def test_a_model_that_is_chosen_while_another_one_answers_begins_its_own_conversation(
    browser: Any, server: HttpServer
) -> None:
    page = browser.new_context().new_page()
    page.goto(server.url)
    page.locator("select >> nth=1").locator("option >> nth=1").wait_for(state="attached")
    page.select_option("select >> nth=0", BASE)
    page.fill("input[name=tokens]", "4")
    waiting = Intercepted(page, "**/v1/chat/completions")
    page.fill("textarea", "of the base")
    page.press("textarea", "Enter")
    waiting.arrived(2)
    page.select_option("select >> nth=0", ADAPTER)
    assert page.locator(".turns").nth(0).locator(".turn").count() == 0
    waiting.let_through()
    waiting.waiting[-1].continue_()  # the other side is still answered
    page.locator("button[name=stop]:disabled").wait_for()
    asked: list[Any] = []
    page.on("request", lambda request: asked.append(request.post_data_json) if request.method == "POST" else None)
    page.fill("textarea", "of the adapter")
    page.press("textarea", "Enter")
    page.locator("button[name=stop]:disabled").wait_for()
    # The other side has the same model and its own conversation, of three turns.
    assert [len(one["messages"]) for one in asked] == [1, 3]
    assert asked[0]["messages"] == [{"role": "user", "content": "of the adapter"}]
