"""A browser for the tests of pages; a module may have a studio `opened` of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers.run_folders.run_logs import write_run
from helpers.servers.browsing import Watched, chromium
from helpers.servers.studios import Opened, studio


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[Opened]:
    """A studio with one run."""
    root = tmp_path_factory.mktemp("opened") / "runs"
    write_run(root / "plain", 1)
    with studio(root, tiny_model) as found:
        yield found


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
