"""Jobs that wait, run, pause and stop."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers.processes.job_workers import wait_for
from helpers.run_folders.run_logs import write_run
from helpers.servers.browsing import IN_A_BROWSER, MOVED, NOTED, WIDE, Watched, held
from helpers.servers.studios import CPU, Opened

pytestmark = IN_A_BROWSER
OVERLAID = """() => {
  const all = [...document.querySelectorAll('main :is(a, button, input, select)')], found = [];
  const box = (one) => one.getBoundingClientRect();
  all.forEach((one, at) => all.slice(at + 1).forEach((other) => { const [a, b] = [box(one), box(other)];
    if (a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom)
      found.push(`${one.outerHTML} over ${other.outerHTML}`); }));
  return found;
}"""
"""Pairs of controls that overlap."""


def test_no_button_of_the_queue_lies_over_another_control(watched: Watched, running: tuple[str, str]) -> None:
    page = watched.page
    watched.go("queue")
    for width in (1010, 1100, 1280):
        page.set_viewport_size({"width": width, "height": 900})
        cancel = page.get_by_role("button", name=re.compile("^cancel waits"))
        cancel.click()
        page.get_by_role("button", name=re.compile("^Really cancel waits")).wait_for()
        # The pointer is still over the button that it has pressed, and over no other one.
        assert page.locator("button:hover").get_attribute("aria-label").startswith("Really cancel waits")
        assert page.evaluate(OVERLAID) == []
        assert page.evaluate(WIDE) == []
        # It asks for a while only.
        cancel.wait_for()


@pytest.fixture
def running(opened: Opened, tiny_data: Path) -> Iterator[tuple[str, str]]:
    """The ids of a job that is carried out for long and of one that waits behind it."""
    client = opened.client
    with tiny_data.open("rb") as rows:
        file = client.files.create(file=rows, purpose="fine-tune")
    client.files.wait_for_processing(file.id, poll_interval=0.1)
    ids = []
    for suffix in ("goes", "waits"):
        body = {"veneer": {"method": "lora", "settings": {**CPU, "train.steps": 100_000}}}
        job = client.fine_tuning.jobs.create(model="model", training_file=file.id, suffix=suffix, extra_body=body)
        ids.append(job.id)
        if suffix == "goes":
            wait_for(lambda: client.fine_tuning.jobs.retrieve(ids[0]).status == "running", 60)
    yield ids[0], ids[1]
    for made in reversed(ids):
        if client.fine_tuning.jobs.retrieve(made).status != "cancelled":
            client.fine_tuning.jobs.cancel(made)
    wait_for(lambda: all(client.fine_tuning.jobs.retrieve(made).status == "cancelled" for made in ids), 60)


def test_a_running_job_is_followed_stopped_and_gone_on_with(watched: Watched, opened: Opened, tiny_data: Path) -> None:
    page, client = watched.page, opened.client
    with tiny_data.open("rb") as rows:
        file = client.files.create(file=rows, purpose="fine-tune")
    client.files.wait_for_processing(file.id, poll_interval=0.1)
    settings = {**CPU, "train.steps": 5_000}
    job = client.fine_tuning.jobs.create(
        model="model", training_file=file.id, extra_body={"veneer": {"method": "lora", "settings": settings}}
    )
    watched.go(f"run/{job.id}")
    page.get_by_role("button", name="Pause").wait_for()
    step = "Number(document.querySelector('.facts dd')?.firstChild?.textContent || 0)"
    wait_for(lambda: page.evaluate(step) > 5, 60)
    # What the page says of the step grows by itself, also after the connection was away.
    seen = page.locator(".facts dd").first.inner_text()
    page.context.set_offline(True)
    page.wait_for_timeout(1500)
    page.context.set_offline(False)
    wait_for(lambda: page.locator(".facts dd").first.inner_text() != seen, 60)
    page.get_by_role("button", name="Pause").click()
    page.get_by_role("button", name="Resume").wait_for(timeout=60_000)
    page.get_by_role("button", name="Resume").click()
    page.get_by_role("button", name="Pause").wait_for(timeout=60_000)
    page.get_by_role("button", name="cancel ft-").click()
    page.get_by_role("button", name="Really cancel").click()
    wait_for(lambda: client.fine_tuning.jobs.retrieve(job.id).status == "cancelled", 60)
    watched.go("queue")
    watched.sees("cancelled")
    # The browser tells of the connection that was taken away; that is no error of the pages.
    watched.errors[:] = [error for error in watched.errors if "ERR_INTERNET_DISCONNECTED" not in error]


def test_a_run_whose_job_is_paused_is_told_as_paused_whatever_its_process_has_left(
    watched: Watched, opened: Opened, tiny_data: Path
) -> None:
    with tiny_data.open("rb") as rows:
        file = opened.client.files.create(file=rows, purpose="fine-tune")
    opened.client.files.wait_for_processing(file.id, poll_interval=0.1)
    body = {"veneer": {"method": "lora", "settings": {**CPU, "train.steps": 5_000}}}
    job = opened.client.fine_tuning.jobs.create(model="model", training_file=file.id, extra_body=body)
    opened.client.fine_tuning.jobs.pause(job.id)
    wait_for(lambda: opened.http.get(f"/v1/fine_tuning/jobs/{job.id}").json()["veneer"]["status"] == "paused", 60)
    watched.go(f"run/{job.id}")
    watched.sees("The job is not running")
    write_run(opened.studio.root / job.id, 1, reason="failed")
    opened.studio.watcher.look()
    watched.sees("learning rate")
    assert watched.page.locator(".pill.paused").count() > 0
    assert watched.page.locator(".pill.failed").count() == 0
    opened.client.fine_tuning.jobs.cancel(job.id)


def test_a_priority_that_is_typed_stays_while_other_jobs_make_steps(
    watched: Watched, opened: Opened, running: tuple[str, str]
) -> None:
    page = watched.page
    watched.go("queue")
    row = page.get_by_role("table", name="Waiting").get_by_role("row", name=re.compile("waits"))
    field = row.get_by_role("spinbutton")
    step = page.get_by_role("table", name="Running and paused").locator("td >> nth=2")
    wait_for(lambda: "/ 100,000" in step.inner_text(), 60)
    field.click()
    page.keyboard.press("Control+A")
    page.keyboard.type("50")
    for _ in range(2):
        seen = step.inner_text()
        wait_for(lambda seen=seen: step.inner_text() != seen, 60)
        assert field.input_value() == "50"
    page.keyboard.press("Enter")

    def stored() -> int:
        return opened.http.get(f"/v1/fine_tuning/jobs/{running[1]}").json()["veneer"]["priority"]

    wait_for(lambda: stored() == 50)
    # A field that was emptied is no priority of 0.
    field.fill("")
    field.blur()
    wait_for(lambda: field.input_value() == "50")
    assert stored() == 50


def test_the_keyboard_stays_on_the_button_that_moves_a_job(
    watched: Watched, opened: Opened, running: tuple[str, str]
) -> None:
    page, client = watched.page, opened.client
    first = client.fine_tuning.jobs.retrieve(running[1])
    body = {"veneer": {"method": "lora", "settings": {**CPU, "train.steps": 100_000}}}
    other = client.fine_tuning.jobs.create(
        model="model", training_file=first.training_file, suffix="other", extra_body=body
    )
    watched.go("queue")
    jobs = page.get_by_role("table", name="Waiting").locator("tbody tr")
    for button, place in (("Move other", 0), ("Move waits", 0), ("Move waits", 1)):
        verb = "later" if place else "earlier"
        moved = page.get_by_role("button", name=re.compile(f"^{button}.* {verb}$"))
        moved.focus()
        page.keyboard.press("Enter")
        jobs.nth(place).get_by_role("button", name=re.compile(f"^{button}")).first.wait_for()
        assert moved.evaluate("one => one === document.activeElement")
    client.fine_tuning.jobs.cancel(other.id)


def test_the_queue_stands_still_when_its_order_comes(watched: Watched, running: tuple[str, str]) -> None:
    page = watched.page
    with held(page, "**/studio/queue") as queues:
        watched.go("queue")
        page.get_by_role("table", name="Waiting").get_by_role("link", name=re.compile("waits")).wait_for()
        page.evaluate(NOTED)
        queues.arrived(1)
        with page.expect_response("**/studio/queue"):
            queues.release()
    assert page.evaluate(MOVED) == []


def test_a_button_of_a_job_is_pressed_once_and_keeps_the_keyboard(
    watched: Watched, opened: Opened, running: tuple[str, str]
) -> None:
    page, goes = watched.page, running[0]
    # The page is there before the run has told of its beginning, and after it.
    page.evaluate(
        """async (id) => {
            const { store } = await import('/static/common/store.js'), keep = store.runs.set.bind(store.runs);
            store.runs.delete(id);
            store.runs.set = (name, run) => name === id && !window.begun ? store.runs : keep(name, run);
        }""",
        goes,
    )
    watched.go(f"run/{goes}")
    page.get_by_text("its run has not written anything yet").wait_for()
    pause, resume = (page.get_by_role("button", name=name) for name in ("Pause goes", "Resume goes"))
    pause.focus()
    page.evaluate("window.begun = true")
    page.get_by_text("Gradient norm").first.wait_for()
    assert pause.evaluate("one => one === document.activeElement")
    page.keyboard.press("Enter")
    resume.wait_for(timeout=60_000)
    assert resume.evaluate("one => one === document.activeElement")
    asked = []
    page.on("request", lambda request: asked.append(request.url) if request.url.endswith("/resume") else None)
    with held(page, "**/resume"):
        with page.expect_request("**/resume"):
            page.keyboard.press("Enter")
        page.keyboard.press("Enter")
        resume.dblclick(force=True)
    pause.wait_for(timeout=60_000)
    assert len(asked) == 1
    assert page.locator(".head .bad").count() == 0
    assert pause.evaluate("one => one === document.activeElement")
    page.get_by_role("button", name="cancel goes").focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    wait_for(lambda: opened.client.fine_tuning.jobs.retrieve(goes).status == "cancelled", 60)
    pause.wait_for(state="detached")
    page.keyboard.press("Tab")
    assert page.evaluate("Boolean(document.activeElement.closest('main'))")


def test_the_keyboard_goes_with_a_job_into_another_list(watched: Watched, running: tuple[str, str]) -> None:
    page = watched.page
    watched.go("queue")

    def row(title: str) -> Any:
        link = page.locator(f"a[href='#/run/{running[1]}']")
        return page.get_by_role("table", name=title).get_by_role("row").filter(has=link)

    row("Waiting").get_by_role("button", name="Pause waits").focus()
    for title, button in (("Running and paused", "Resume"), ("Waiting", "Pause")):
        page.keyboard.press("Enter")
        moved = row(title).get_by_role("button", name=f"{button} waits")
        moved.wait_for()
        assert moved.evaluate("one => one === document.activeElement")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.get_by_role("button", name=re.compile("^Really cancel waits")).wait_for()
    page.keyboard.press("Enter")
    ended = row("Ended").get_by_role("link")
    ended.wait_for()
    assert ended.evaluate("one => one === document.activeElement")
