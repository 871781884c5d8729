"""What holds on every page: widths, names, contrast, forced colours and the keyboard."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from helpers.processes.job_workers import wait_for
from helpers.run_folders.run_logs import write_run
from helpers.servers.browsing import CONTRAST, IN_A_BROWSER, Watched
from helpers.servers.studios import studio

pytestmark = IN_A_BROWSER


CONTROLS = """[...document.querySelectorAll('main :is(a[href], button, input, select, textarea, summary)')]
  .filter((one) => !one.disabled && one.checkVisibility())"""
"""What of a page can be used now."""


@pytest.mark.parametrize(
    "at", ["runs", "run/plain", "queue", "new", "new?objective=grpo", "data", "sweeps", "report", "export", "chat"]
)
@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (1280, "dark")])
def test_pages_fit_their_width_and_every_control_has_a_name(
    browser: Any, watched: Watched, at: str, width: int, scheme: str
) -> None:
    context = browser.new_context(
        viewport={"width": width, "height": 844},
        color_scheme=scheme,
        storage_state=watched.page.context.storage_state(),
    )
    page = context.new_page()
    page.goto(f"{watched.address}/#/{at}")
    page.locator("h1").wait_for()
    page.wait_for_timeout(300)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.evaluate(
        "[...document.querySelectorAll('.scroll, .seg')].every((one) => one.scrollWidth <= one.clientWidth)"
    )
    unnamed = page.evaluate(
        "[...document.querySelectorAll('input, select, textarea, button')].filter((one) => !(one.labels?.length || "
        "one.getAttribute('aria-label') || one.textContent.trim())).map((one) => one.outerHTML)"
    )
    assert unnamed == []
    small = page.evaluate(
        "[...document.querySelectorAll('button:not(.skip), a.btn, a.tag, input[type=checkbox]')].filter((one) => "
        "one.offsetHeight && (one.offsetHeight < 24 || one.offsetWidth < 24)).map((one) => one.outerHTML)"
    )
    assert width > 640 or small == []
    assert page.evaluate(CONTRAST) == []
    context.close()


def test_what_is_current_and_how_things_stand_is_seen_in_forced_colours(browser: Any, watched: Watched) -> None:
    context = browser.new_context(forced_colors="active", storage_state=watched.page.context.storage_state())
    page = context.new_page()
    page.goto(f"{watched.address}/#/runs")
    page.locator(".pill").first.wait_for()
    for current in ("a.nav[aria-current]", ".seg [aria-pressed=true]"):
        assert page.locator(current).first.evaluate("one => getComputedStyle(one).outlineStyle") == "solid"
    assert page.locator(".dot").evaluate("one => getComputedStyle(one).forcedColorAdjust") == "none"
    context.close()


def test_long_names_are_broken_in_a_narrow_window(browser: Any, tmp_path: Path, tiny_model: Path) -> None:
    name = "claims_of_2026_" + "x" * 120
    base = Path(shutil.copytree(tiny_model, tmp_path / "bases" / name))
    write_run(tmp_path / "runs" / name, 3, config=f"model: {base}\nmethod: lora\n")
    (tmp_path / "runs" / name / "run.lock").write_text("{}", encoding="utf-8")
    with studio(tmp_path / "runs", base) as opened:
        page = browser.new_context(viewport={"width": 390, "height": 844}).new_page()
        page.goto(opened.running.link)
        page.get_by_text(name).first.wait_for(timeout=20_000)
        row = b'{"prompt": "a", "completion": "b"}\n'
        rows = opened.client.files.create(file=(f"{name}.jsonl", row), purpose="fine-tune")
        opened.client.files.wait_for_processing(rows.id, poll_interval=0.1)
        for at in ("runs", f"run/{name}", "new", "export", "chat", f"data/{rows.id}"):
            page.goto(f"{opened.running.url}/#/{at}")
            page.locator(".rows article" if at.startswith("data/") else "h1").first.wait_for()
            page.wait_for_timeout(500)
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), at


@pytest.mark.parametrize("at", ["runs", "run/plain", "new", "report", "chat"])
def test_every_control_is_reached_by_the_keyboard_and_a_page_begins_at_its_content(watched: Watched, at: str) -> None:
    page = watched.page
    watched.go("queue")
    watched.go(at)
    title = {"runs": "Runs", "run/plain": "plain", "new": "New job", "report": "Evaluation", "chat": "Chat"}[at]
    wait_for(lambda: page.title().startswith(title))
    assert page.locator("h1").inner_text() == title
    page.locator("main:focus").wait_for()  # what is read next is the page, not the list of pages once more
    wait_for(lambda: page.evaluate(f"{CONTROLS}.length") > 5)
    page.wait_for_timeout(500)
    count = page.evaluate(f"window.controls = {CONTROLS}; controls.length")
    for _ in range(count + 20):
        page.keyboard.press("Tab")
        page.evaluate("controls = controls.filter((one) => one !== document.activeElement && one.isConnected)")
    assert page.evaluate("controls.map((one) => one.outerHTML)") == []
    page.get_by_role("button", name="To the page's content").focus()
    page.keyboard.press("Enter")
    page.locator("main:focus").wait_for()
