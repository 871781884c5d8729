"""Opening the studio's pages: who gets in, in how many windows, and what they show at first."""

from __future__ import annotations

from typing import Any

from helpers.processes.job_workers import wait_for
from helpers.run_folders.run_logs import write_run
from helpers.servers.browsing import IN_A_BROWSER, Watched
from helpers.servers.studios import Opened

pytestmark = IN_A_BROWSER


def test_a_link_opens_the_pages_once(browser: Any, opened: Opened) -> None:
    link = f"{opened.running.url}{opened.studio.sessions.link()}"
    first, second = browser.new_context().new_page(), browser.new_context().new_page()
    first.goto(link)
    first.get_by_text("plain").first.wait_for()
    second.goto(link)
    assert "does not know your browser" in second.content()
    second.goto(opened.running.url)
    assert "does not know your browser" in second.content()


def test_a_window_goes_on_when_the_new_link_was_opened_in_another_one(browser: Any, opened: Opened) -> None:
    context = browser.new_context()
    first = context.new_page()
    first.goto(f"{opened.running.url}{opened.studio.sessions.link()}")
    first.get_by_text("plain").first.wait_for(timeout=60_000)
    first.goto(f"{opened.running.url}/#/new")
    suffix = first.locator("input[placeholder=claims]")
    suffix.fill("typed")
    # A studio that was started again knows no session, and does not answer for a while.
    context.clear_cookies()
    opened.studio.draining = True
    first.wait_for_timeout(1500)
    opened.studio.draining = False
    first.get_by_text("does not know your browser").wait_for(timeout=30_000)
    second = context.new_page()
    second.goto(f"{opened.running.url}{opened.studio.sessions.link()}")
    first.get_by_text("does not know your browser").wait_for(state="detached", timeout=30_000)
    first.get_by_text("live", exact=True).first.wait_for(timeout=30_000)
    assert suffix.input_value() == "typed"
    context.close()


def test_many_tabs_of_one_browser_work(browser: Any, watched: Watched, opened: Opened) -> None:
    """A browser keeps at most six connections to one address, over all of its tabs."""
    write_run(opened.studio.root / "many", 3)
    opened.studio.watcher.look()
    context = browser.new_context(storage_state=watched.page.context.storage_state())
    pages = [context.new_page() for _ in range(8)]
    for page in pages:
        page.goto(f"{watched.address}/#/run/many")
        page.locator(".u-wrap").first.wait_for(timeout=30_000)
        page.get_by_text("live", exact=True).first.wait_for(timeout=30_000)
    pages[0].get_by_label("Text").fill("seen everywhere")
    pages[0].get_by_role("button", name="Save").click()
    for page in pages:
        wait_for(lambda page=page: page.get_by_label("Text").input_value() == "seen everywhere")  # type: ignore[misc]
    context.close()


def test_what_is_told_before_a_page_listens_is_shown(browser: Any, watched: Watched) -> None:
    """The first runs may come before the page's effects run, which a busy machine delays."""
    context = browser.new_context(storage_state=watched.page.context.storage_state())
    context.add_init_script(
        "const later = setTimeout; requestAnimationFrame = () => 0; "
        "setTimeout = (call, ms, ...rest) => later(call, ms <= 200 ? 2000 : ms, ...rest)"
    )
    page = context.new_page()
    page.goto(watched.address)
    page.get_by_text("plain").first.wait_for(timeout=20_000)
    page.get_by_text("live").first.wait_for(timeout=20_000)
    context.close()
