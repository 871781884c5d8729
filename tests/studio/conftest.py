"""A browser for the tests of pages; the studio `opened` is of the module that asks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from browsing import CHROMIUM, Watched
from studios import Opened


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def watched(browser: Any, opened: Opened) -> Iterator[Watched]:
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = Watched(context.new_page(), opened.running.url)
    link = f"{opened.running.url}{opened.studio.sessions.link()}"
    page.page.goto(link)
    page.sees("plain", 90)
    yield page
    # Requests that a test has left waiting, or answers at this moment.
    page.page.unroute_all(behavior="ignoreErrors")
    context.close()
    assert page.elsewhere == []
    assert page.errors == []
