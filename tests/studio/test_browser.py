"""The pages in Debian's Chromium: the whole path of a user, with nothing asked of another machine and no error said."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from helpers.models.tiny import rows as taught
from helpers.models.tiny import run_config, write_rows
from helpers.processes.job_workers import wait_for
from helpers.run_folders.run_logs import step_done, write_run
from helpers.servers.browsing import CHROMIUM, Intercepted, Watched
from helpers.servers.studios import CPU, Opened, studio
from veneer.enums import JobCode
from veneer.event_log import EventLog
from veneer.events import AnswersJudged
from veneer.tracked_run import train_tracked
from veneer.training.evaluations import shown_prompts

playwright = pytest.importorskip("playwright.sync_api", reason="playwright drives the browser")
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="Debian's chromium is not installed"),
    pytest.mark.slow,
]
NASTY = "<img src=x onerror=alert(1)>"
"""A name that would run where names were taken for HTML."""


def shlex_word(text: str) -> str:
    """A word for a shell that has single quotes in it."""
    return "'" + text.replace("'", "'\\''") + "'"


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[Opened]:
    root = tmp_path_factory.mktemp("browser") / "runs"
    for name in ("sweep/low", "sweep/high", "plain"):
        write_run(root / name, 30, config=f"model: {tiny_model}\nmethod: lora\nlora:\n  rank: {len(name)}\n")
    with studio(root, tiny_model) as found:
        yield found


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


def test_the_whole_path_from_a_file_to_an_answer(watched: Watched, opened: Opened, tiny_data: Path) -> None:
    page = watched.page
    watched.go("data")
    rows = tiny_data.read_text("utf-8").splitlines()
    broken = json.dumps({"messages": [{"role": "user", "content": NASTY}, {"role": "assistant", "content": ""}]})
    far = json.dumps({"messages": [{"role": "user", "content": "東京?"}, {"role": "assistant", "content": "1"}]})
    lines = "\n".join([*rows, far, broken]).encode()
    file = {"name": f"{NASTY}.jsonl", "mimeType": "application/jsonl", "buffer": lines}
    page.locator("input[type=file]").set_input_files(file)
    watched.sees("1 with errors")
    page.get_by_text(f"{NASTY}.jsonl").click()
    watched.sees("empty-turn")
    # A character of several tokens is shown once, and is found.
    page.get_by_label("Search in rows").fill("東京")
    page.get_by_role("heading", name="1 row", exact=True).wait_for()
    assert "東··京··?" in page.locator(".tokens").first.inner_text()
    page.get_by_label("Search in rows").fill("")
    page.get_by_role("button", name="empty-turn").click()
    page.get_by_role("heading", name="1 row", exact=True).wait_for()
    wait_for(lambda: page.locator(".tokens").first.inner_text().count("onerror") == 1)
    assert page.locator("main img").count() == 0
    # A job of the rows that are in order, whose plan follows the form.
    watched.go("data")
    page.locator("input[type=file]").set_input_files(tiny_data)
    watched.sees("20 rows: 0 with errors")
    page.get_by_role("row", name=re.compile("^rows.jsonl")).get_by_role("link", name="Train on it").click()
    watched.sees("peak memory")
    page.select_option("select >> nth=1", "lora")
    page.fill("input[name='train.steps']", "12")
    wait_for(lambda: "train.steps=12" in page.locator("#command").inner_text())
    # What cannot be used is said at its field, and the browser counts no error of the page (`watched`).
    page.fill("input[name='lora.rank']", "many")
    page.locator("label:has(input[name='lora.rank'][aria-invalid=true]) small.bad").wait_for()
    assert page.get_by_role("button", name="Create job").is_disabled()
    page.fill("input[name='lora.rank']", "")
    page.locator("#command").wait_for()
    assert "--method lora" in page.locator("#command").inner_text()
    page.locator(".tokens .t").first.wait_for()
    for key, value in CPU.items():
        if key != "lora.rank":
            page.select_option("select:has(option[value='compute.device'])" if key == "compute.device" else
                               "select:has(option[value='compute.dtype'])" if key == "compute.dtype" else
                               "select:has(option[value='compute.threads'])", key)  # fmt: skip
            page.locator(f"label:has(span:text-is('{key}')) input").fill(str(value))
    page.fill("input[placeholder=claims]", "path")
    page.get_by_role("button", name="Create job").click()
    page.wait_for_url(re.compile("#/run/ftjob"))
    watched.sees("finished", 90)
    # The curve is drawn, and can be taken away as a drawing.
    page.locator(".u-wrap canvas").first.wait_for()
    with page.expect_download() as taken:
        page.get_by_role("button", name="Loss as SVG").click()
    drawing = Path(taken.value.path()).read_text("utf-8")
    assert drawing.startswith("<svg")
    assert "training, smoothed" in drawing
    watched.sees("run.lock")
    # A job like this one begins with what this one was asked for.
    made = page.url
    page.get_by_role("link", name="New job like this").click()
    wait_for(lambda: page.locator("input[name='train.steps']").input_value() == "12")
    wait_for(lambda: "train.steps=12" in page.locator("#command").inner_text())
    page.goto(made)
    page.locator("main").get_by_role("link", name="Chat", exact=True).click()
    page.get_by_label("model 2").wait_for(timeout=60_000)
    chosen = [page.get_by_label(f"model {place}").input_value() for place in (1, 2)]
    page.get_by_text("System message").first.click()
    page.get_by_label("System message").fill("asked with")
    answers = Intercepted(page, "**/v1/chat/completions")
    held = answers.waiting
    page.fill("#question", "0: parcel?")
    page.keyboard.press("Control+Enter")
    wait_for(lambda: page.locator(".turn").count() == 1 and len(held) == 2)
    # As long as a question is answered no other one is asked.
    page.fill("#question", "1: parcel?")
    page.keyboard.press("Control+Enter")
    for request in held:
        # A model that was hardly trained does not end its answers, and those that are cut are marked nowhere.
        answer = request.fetch(timeout=60_000)
        request.fulfill(
            response=answer, body=answer.text().replace('"finish_reason":"length"', '"finish_reason":"stop"')
        )
    page.get_by_text(re.compile("tokens in")).nth(1).wait_for(timeout=60_000)
    answers.let_through()
    assert page.locator(".turn").inner_text() == "0: parcel?"
    assert len(held) == 2
    # Models that answer already are offered no second time, and what is kept is what was asked.
    for place, other in ((1, chosen[1]), (2, chosen[0])):
        assert other not in page.get_by_label(f"model {place}").locator("option").all_inner_texts()
    page.get_by_label("System message").fill("typed since")
    page.get_by_role("button", name="This one is better").first.click()
    watched.sees("Kept as the better one")
    kept = opened.http.get("/studio/preferences").text.splitlines()
    assert [turn["content"] for turn in json.loads(kept[-1])["prompt"]] == ["asked with", "0: parcel?"]


def test_a_file_that_cannot_be_used_leads_to_no_job(watched: Watched, opened: Opened) -> None:
    page = watched.page
    watched.go("data")
    # What is uploaded and deleted elsewhere comes and goes by itself.
    made = opened.client.files.create(file=("elsewhere.jsonl", b"{}\n"), purpose="fine-tune")
    page.get_by_role("link", name="elsewhere.jsonl").wait_for()
    opened.client.files.wait_for_processing(made.id, poll_interval=0.1)
    opened.client.files.delete(made.id)
    page.get_by_role("link", name="elsewhere.jsonl").wait_for(state="detached")
    file = {"name": "broken.jsonl", "mimeType": "application/jsonl", "buffer": b'{"prompt": '}
    page.locator("input[type=file]").set_input_files(file)
    row = page.get_by_role("row", name=re.compile("^broken.jsonl cannot be used"))
    row.wait_for()
    assert row.get_by_role("link", name="Train on it").count() == 0
    row.get_by_role("link", name="broken.jsonl").click()
    watched.sees("unusable-row")
    with page.expect_download() as taken:
        page.get_by_role("button", name="Findings as CSV").click()
    assert Path(taken.value.path()).read_text("utf-8").splitlines()[1] == "error,unusable-row,1"
    assert page.get_by_role("link", name="Train on it").count() == 0
    watched.go(f"new?file={page.url.rpartition('/')[2]}")
    page.locator("option:text-is('broken.jsonl: cannot be used')").wait_for(state="attached")


def test_a_long_name_hides_no_column_and_commands_name_the_run(watched: Watched, opened: Opened) -> None:
    page, name = watched.page, "it's a long-name-without-end-" * 7
    run = write_run(opened.studio.root / name, 3)
    (run / "run.lock").write_text(json.dumps({"versions": {}, "hardware": {}}))
    opened.studio.watcher.look()
    watched.go("runs")
    page.get_by_role("link", name=name).wait_for()
    assert page.evaluate("[...document.querySelectorAll('.scroll')].every((one) => one.scrollWidth <= one.clientWidth)")
    watched.go(f"run/{quote(name, safe='')}")
    page.locator(f"code:text-is({json.dumps(f'veneer reproduce {shlex_word(str(run))}')})").wait_for()


def test_a_studio_that_does_not_answer_is_said_and_asked_again(watched: Watched) -> None:
    page, said = watched.page, "The studio does not answer"
    broken = Intercepted(page, "**/studio/options", lambda route: route.abort())
    watched.go("new")
    watched.sees(said)
    broken.let_through()
    page.get_by_text(said).wait_for(state="hidden", timeout=20_000)
    wait_for(lambda: page.locator("select").first.input_value() == "model")
    # What a setting is as long as nothing is typed, and no file is chosen that a plan could be made of.
    page.select_option("select >> nth=3", "")
    wait_for(lambda: page.locator("input[name='lora.rank']").get_attribute("placeholder") == "16")
    watched.errors[:] = [error for error in watched.errors if "ERR_FAILED" not in error]


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


def test_the_queue_stands_still_when_its_order_comes(watched: Watched, running: tuple[str, str]) -> None:
    page = watched.page
    with held(page, "**/studio/queue") as waiting:
        watched.go("queue")
        page.get_by_role("table", name="Waiting").get_by_role("link", name=re.compile("waits")).wait_for()
        page.evaluate(NOTED)
        assert waiting
        with page.expect_response("**/studio/queue"):
            while waiting:
                waiting.pop().continue_()
    assert page.evaluate(MOVED) == []


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


OVERLAID = """() => {
  const all = [...document.querySelectorAll('main :is(a, button, input, select)')], found = [];
  const box = (one) => one.getBoundingClientRect();
  all.forEach((one, at) => all.slice(at + 1).forEach((other) => { const [a, b] = [box(one), box(other)];
    if (a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom)
      found.push(`${one.outerHTML} over ${other.outerHTML}`); }));
  return found;
}"""
"""Pairs of controls that overlap."""


def test_a_button_of_a_job_is_pressed_once_and_keeps_the_keyboard(
    watched: Watched, opened: Opened, running: tuple[str, str]
) -> None:
    page, goes = watched.page, running[0]
    # The page is there before the run has told of its beginning, and after it.
    page.evaluate(
        """async (id) => {
            const { store } = await import('/static/lib.js'), keep = store.runs.set.bind(store.runs);
            store.runs.delete(id);
            store.runs.set = (name, run) => name === id && !window.begun ? store.runs : keep(name, run);
        }""",
        goes,
    )
    watched.go(f"run/{goes}")
    page.get_by_text("its run has not written anything yet").wait_for()
    pause, resume = (page.get_by_role("button", name=name, exact=True) for name in ("Pause", "Resume"))
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


def test_samples_reports_and_their_intervals_are_shown(
    watched: Watched, opened: Opened, tiny_model: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shown_prompts, "SHARE", math.inf)  # samples are made, whatever this machine is busy with
    page, root = watched.page, opened.studio.root
    for name in ("one", "two"):
        made = run_config(
            tiny_model, tiny_data, root / "told" / name, "train.steps=20", "data.held_out=0.3", "train.samples_every=2"
        )
        train_tracked(made)
    opened.studio.watcher.look()
    asked = opened.http.get("/studio/run?name=told/one").json()
    watched.go("run/told%2Fone")
    watched.sees("Samples during training")
    shown = page.locator(".samples table").inner_text()
    assert asked["samples"][-1]["prompts"][0].split("\n")[1] in shown
    page.get_by_label("Tags").fill("kept, first, kept")
    page.get_by_role("button", name="Save").click()
    watched.sees("Saved")
    watched.go("runs")
    page.get_by_role("button", name="kept").click()
    page.get_by_role("link", name="told/two").wait_for(state="detached")
    assert page.get_by_role("link", name="told/one").count() == 1
    watched.go("report")
    page.get_by_role("link", name="told/two").click()
    watched.sees("Base and adapter")
    watched.go(f"compare?runs={quote(json.dumps(['told/one', 'told/two']))}")
    watched.sees("Evaluation with intervals")
    with page.expect_download() as taken:
        page.get_by_role("button", name="Evaluation with intervals as CSV").click()
    table = Path(taken.value.path()).read_text("utf-8").splitlines()
    measured = opened.http.get("/studio/report?name=told/one").json()["report"]["comparison"][0]
    assert table[1].split(",")[:2] == ["told/one", measured["name"]]
    assert [float(cell) for cell in table[1].split(",")[4:]] == [measured[key] for key in ("difference", "low", "high")]


def test_plots_keep_their_place_when_their_curves_come(
    watched: Watched, opened: Opened, tiny_model: Path, tiny_data: Path
) -> None:
    """A button below that moves between a press and its release is not clicked."""
    train_tracked(run_config(tiny_model, tiny_data, opened.studio.root / "still", "train.steps=4", "data.held_out=0.3"))
    opened.studio.watcher.look()
    page = watched.page
    held = Intercepted(page, "**/studio/curves*").waiting
    with page.expect_request("**/studio/curves*"):
        watched.go("run/still")
    watched.sees("Checkpoints")
    sizes = "plots => plots.map((plot) => plot.offsetHeight)"
    before = page.locator(".plot").evaluate_all(sizes)
    assert held
    for route in held:
        route.continue_()
    watched.sees("single steps")
    page.locator(".plot canvas").first.wait_for()
    assert page.locator(".plot").evaluate_all(sizes) == before


@contextmanager
def held(page: Any, pattern: str) -> Iterator[list[Any]]:
    """The requests of a page that are not let through before the block's end."""
    requests = Intercepted(page, pattern)
    yield requests.waiting
    requests.release()


def first_fails(page: Any, pattern: str) -> None:
    """The connection breaks at the next request of a page, and at no later one."""
    page.route(pattern, lambda route: route.abort(), times=1)


def without_breaks(errors: list[str]) -> list[str]:
    """Errors of a page less those by which a browser tells of connections that were broken."""
    return [error for error in errors if "ERR_FAILED" not in error]


def rewarded(run: Path, steps: int) -> Path:
    """A run whose objective has measures of its own."""
    with EventLog(run / "events.jsonl") as log:
        for step in range(1, steps + 1):
            log.emit(replace(step_done(step), metrics={"reward": step / 2, "kl": 0.1, "rewards/right": 1.0}))
    return run


def test_nothing_on_a_runs_page_moves_under_a_click_when_late_answers_come(
    browser: Any, watched: Watched, opened: Opened, tiny_model: Path, tiny_data: Path
) -> None:
    """A button that moves between a press and its release is not clicked, and another one may be in its place."""
    made = opened.studio.root / "steady"
    train_tracked(run_config(tiny_model, tiny_data, made, "train.steps=4", "data.held_out=0.3"))
    rewarded(write_run(opened.studio.root / "rewarded", 3, config="model: m\nmethod: lora\nobjective: grpo\n"), 3)
    opened.studio.watcher.look()
    both = quote(json.dumps(["steady", "rewarded"]))
    moved: dict[tuple[int, str, str], Any] = {}
    for width, height in ((1280, 900), (390, 844)):
        context = browser.new_context(
            viewport={"width": width, "height": height}, storage_state=watched.page.context.storage_state()
        )
        page = context.new_page()
        for at, late, first, then in (
            ("run/steady", "**/studio/run?*", ".plot canvas", "text=Checkpoints"),
            ("run/steady", "**/studio/curves?*", "text=Checkpoints", ".plot canvas"),
            ("run/rewarded", "**/studio/curves?*", "text=Checkpoints", ".plot canvas"),
            (f"compare?runs={both}", "**/studio/curves?*", "text=lora.rank", ".plot canvas"),
        ):
            page.goto("about:blank")
            with held(page, late) as waiting:
                page.goto(f"{watched.address}/#/{at}")
                page.locator(first).first.wait_for(timeout=20_000)
                page.evaluate(NOTED)
                assert waiting
            page.locator(then).first.wait_for(timeout=20_000)
            moved[width, at, late] = page.evaluate(MOVED)
        context.close()
    assert {case: found for case, found in moved.items() if found} == {}


PLACED = """window.placed = (one) => { const { x, y, width } = one.getBoundingClientRect();
  return one.isConnected ? [x, y + scrollY, width].map(Math.round).join() : 'gone'; };"""
NOTED = (
    PLACED + "window.noted = [...document.querySelectorAll('main :is(a, button, input, select, textarea)')];"
    "window.places = noted.map(placed); null"
)
"""Takes down where everything stands that can be clicked."""
MOVED = """noted.map((one, at) => [one.outerHTML.slice(0, 90), places[at], placed(one)])
  .filter(([, before, now]) => before !== now)"""
"""What of it stands elsewhere now."""


def test_what_is_typed_in_notes_stays_when_an_answer_is_lost(watched: Watched, opened: Opened) -> None:
    run = write_run(opened.studio.root / "goes-on", 3, reason=None)
    opened.studio.watcher.look()
    page = watched.page
    watched.go("run/goes-on")
    watched.sees("Notes")
    page.get_by_label("Text").fill("my long note")
    first_fails(page, "**/studio/run?*")
    with EventLog(run / "events.jsonl") as log:
        for step in range(4, 24):
            log.emit(step_done(step))
    with page.expect_request_finished(lambda request: "/studio/run?" in request.url):
        opened.studio.watcher.look()
    page.get_by_text("does not answer").wait_for(state="detached")
    assert page.get_by_label("Text").input_value() == "my long note"
    assert any("ERR_FAILED" in error for error in watched.errors)
    watched.errors[:] = without_breaks(watched.errors)


def test_curves_are_called_by_the_axis_that_they_are_along(watched: Watched) -> None:
    page = watched.page
    watched.go("run/plain")
    plot = page.get_by_role("img", name=re.compile("^Loss by "))
    plot.wait_for()
    with held(page, "**/studio/curves?*along=tokens*"):
        with page.expect_request("**/studio/curves?*along=tokens*"):
            page.get_by_role("button", name="tokens", exact=True).click()
        assert plot.get_attribute("aria-label").startswith("Loss by step.")
        with page.expect_download() as taken:
            page.get_by_role("button", name="Loss as CSV").click()
        assert Path(taken.value.path()).read_text("utf-8").startswith("step,")
    page.get_by_role("img", name=re.compile("^Loss by tokens.")).wait_for()
    with page.expect_download() as taken:
        page.get_by_role("button", name="Loss as CSV").click()
    assert Path(taken.value.path()).read_text("utf-8").splitlines()[1].startswith("100,")


def test_what_did_not_come_is_said_and_asked_for_again(watched: Watched) -> None:
    page = watched.page
    first_fails(page, "**/studio/curves?*")
    watched.go("run/plain")
    watched.sees("The figures could not be loaded")
    assert page.get_by_text("Nothing was measured yet").count() == 0
    page.get_by_role("img", name=re.compile("^Loss by step.")).wait_for()
    page.get_by_text("does not answer").wait_for(state="detached")
    # Of runs that are compared one answer alone is missing.
    first_fails(page, "**/studio/run?*")
    watched.go(f"compare?runs={quote(json.dumps(['sweep/low', 'sweep/high']))}")
    watched.sees("The settings of some runs could not be loaded")
    assert page.get_by_text("No setting differs").count() == 0
    page.locator("td:text-is('lora.rank')").wait_for()
    watched.errors[:] = without_breaks(watched.errors)


def test_what_was_searched_and_chosen_among_the_runs_is_there_again(watched: Watched) -> None:
    page = watched.page
    page.get_by_label("choose sweep/low to compare").check()
    page.get_by_label("Search names, tags, notes and models").fill("sweep/")
    page.get_by_role("button", name=re.compile("^finished")).click()
    page.get_by_role("link", name="sweep/high").click()
    watched.sees("Gradient norm")
    page.go_back()
    page.get_by_label("choose sweep/high to compare").check()
    assert page.get_by_label("Search names, tags, notes and models").input_value() == "sweep/"
    assert page.get_by_label("choose sweep/low to compare").is_checked()
    page.get_by_role("link", name="Compare 2").click()
    watched.sees("Settings that differ")


def test_names_are_sorted_whatever_their_case_and_written_as_they_are(watched: Watched, opened: Opened) -> None:
    page, names = watched.page, ["cased-a", "Cased-B", "cased-c"]
    for name in names:
        write_run(opened.studio.root / name, 1)
    opened.studio.watcher.look()
    page.get_by_label("Search names, tags, notes and models").fill("cased-")
    page.get_by_role("button", name="Run", exact=True).click()
    page.locator("th[aria-sort=ascending]", has_text="Run").wait_for()
    wait_for(lambda: page.locator("tbody a.name").all_inner_texts() == names)
    with page.expect_download() as taken:
        page.get_by_role("button", name="Runs as CSV").click()
    lines = Path(taken.value.path()).read_text("utf-8").splitlines()
    assert [line.split(",")[0] for line in lines[1:]] == names


def test_a_state_that_no_run_has_any_more_is_still_the_one_that_is_chosen(watched: Watched, opened: Opened) -> None:
    page, run = watched.page, write_run(opened.studio.root / "rests", 3, reason="interrupted")
    opened.studio.watcher.look()
    page.get_by_role("button", name="stopped 1").click()
    shutil.rmtree(run)
    opened.studio.watcher.look()
    page.get_by_role("button", name="stopped 0", pressed=True).wait_for()


def test_a_comparison_falls_back_to_the_loss_where_its_runs_have_not_the_chosen_measure(
    watched: Watched, opened: Opened
) -> None:
    page = watched.page
    for name, config in (("judged/b", "grpo"), ("judged/a", "grpo")):
        run = write_run(opened.studio.root / name, 3, config=f"model: m\nmethod: lora\nobjective: {config}\n")
        rewarded(run, 3)
    opened.studio.watcher.look()
    watched.go(f"compare?runs={quote(json.dumps(['judged/b', 'judged/a']))}")
    page.get_by_label("of the objective").select_option("kl")
    page.get_by_role("img", name=re.compile("^kl by")).wait_for()
    watched.go(f"compare?runs={quote(json.dumps(['sweep/low', 'sweep/high']))}")
    page.get_by_role("img", name=re.compile("^Training loss by")).wait_for()
    assert page.get_by_role("button", name="loss", exact=True).get_attribute("aria-pressed") == "true"


def test_runs_that_are_compared_are_sorted_by_the_names_that_are_shown(
    watched: Watched, opened: Opened, tiny_data: Path
) -> None:
    page, client = watched.page, opened.client
    with tiny_data.open("rb") as rows:
        file = client.files.create(file=rows, purpose="fine-tune")
    client.files.wait_for_processing(file.id, poll_interval=0.1)
    made: list[str] = []
    # The folders' names are drawn by lot.
    while len(made) < 3 or made == sorted(made):
        body = {"veneer": {"method": "lora", "settings": {**CPU, "train.steps": 1}}}
        suffix = f"name-{len(made):02d}"
        job = client.fine_tuning.jobs.create(model="model", training_file=file.id, suffix=suffix, extra_body=body)
        client.fine_tuning.jobs.cancel(job.id)
        wait_for(lambda job=job: client.fine_tuning.jobs.retrieve(job.id).status == "cancelled", 60)
        made.append(job.id)
        write_run(opened.studio.root / job.id, 2)
    opened.studio.watcher.look()
    watched.go(f"compare?runs={quote(json.dumps(made))}")
    table = page.get_by_role("table", name="Runs that are compared")
    wait_for(lambda: table.locator("tbody a").count() == len(made))
    table.locator("th[aria-sort=ascending]", has_text="Run").wait_for()
    names = table.locator("tbody a").all_inner_texts()
    assert names == sorted(names)


def test_of_runs_that_were_not_measured_none_is_the_best(watched: Watched, opened: Opened) -> None:
    page = watched.page
    for name in ("empty/a", "empty/b"):
        run = write_run(opened.studio.root / name, 0, reason="failed")
        lines = [line for line in (run / "events.jsonl").read_text().splitlines() if '"Evaluated"' not in line]
        (run / "events.jsonl").write_text("".join(line + "\n" for line in lines))
    opened.studio.watcher.look()
    watched.go("sweeps")
    table = page.get_by_role("table", name="Runs of empty")
    table.wait_for()
    assert "best" not in table.locator("tbody").inner_text()
    assert "ms" not in table.locator("tbody").inner_text()


def test_notes_are_saved_one_after_another(watched: Watched, opened: Opened) -> None:
    write_run(opened.studio.root / "saved", 3)
    opened.studio.watcher.look()
    page = watched.page
    watched.go("run/saved")
    card = page.locator("section", has=page.get_by_role("heading", name="Notes"))
    save, said = card.get_by_role("button", name="Save"), card.get_by_role("status")
    page.get_by_label("Text").fill("one")
    with held(page, "**/studio/notes?*"):
        save.click()
        said.get_by_text("Saving …").wait_for()
        page.get_by_label("Text").fill("one two")
        save.click(force=True)
    said.get_by_text("Saving …").wait_for(state="detached")
    # What was typed meanwhile is not called saved.
    assert said.inner_text() == ""
    save.click()
    said.get_by_text("Saved", exact=True).wait_for()
    assert opened.http.get("/studio/run?name=saved").json()["record"]["text"] == "one two"


def test_an_answer_without_a_letter_is_told_from_an_empty_cell(watched: Watched, opened: Opened) -> None:
    page, run = watched.page, write_run(opened.studio.root / "blank", 3)
    with EventLog(run / "events.jsonl") as log:
        log.emit(
            AnswersJudged(
                step=1, answers=2, tokens=9, failed=(), prompts=("where?", "where?"),
                shown=("\n", ""), rewards=(1.0, 0.0),
            )
        )  # fmt: skip
    opened.studio.watcher.look()
    watched.go("run/blank")
    table = page.get_by_role("table", name="Sampled answers of step 1")
    table.wait_for()
    assert table.locator("tbody td:last-child").all_inner_texts() == [r"(only white space: \n)", "(empty)"]


def test_a_curve_that_has_no_logarithm_is_drawn_without_and_says_so(watched: Watched, opened: Opened) -> None:
    page, run = watched.page, write_run(opened.studio.root / "below", 0)
    with EventLog(run / "events.jsonl") as log:
        for step in (1, 2):
            log.emit(step_done(step, -1.0 * step))
    opened.studio.watcher.look()
    watched.go("run/below")
    page.get_by_label("logarithmic loss").check()
    watched.sees("No value is above 0")
    with page.expect_download() as taken:
        page.get_by_role("button", name="Loss as SVG").click()
    assert "NaN" not in Path(taken.value.path()).read_text("utf-8")


def test_notes_in_two_tabs_are_not_overwritten_unseen(watched: Watched, opened: Opened) -> None:
    write_run(opened.studio.root / "noted", 3)
    opened.studio.watcher.look()
    page = watched.page
    watched.go("run/noted")
    watched.sees("Notes")

    def elsewhere(text: str) -> None:
        assert opened.http.put("/studio/notes?name=noted", json={"text": text, "tags": []}).status_code == 200

    elsewhere("from another tab")
    wait_for(lambda: page.get_by_label("Text").input_value() == "from another tab")
    page.get_by_label("Text").fill("mine")
    elsewhere("newer")
    card = page.locator("section", has=page.get_by_role("heading", name="Notes"))
    save, said = card.get_by_role("button", name="Save"), card.get_by_role("status")
    # The page learns of other tabs by and by; what it has been told already, it can show.
    wait_for(
        lambda: page.evaluate("import('/static/lib.js').then(({ store }) => store.runs.get('noted').text)") == "newer"
    )
    page.wait_for_timeout(300)
    save.click()
    said.get_by_text("“newer”. Save again to replace them.").wait_for()
    assert page.get_by_label("Text").input_value() == "mine"
    assert opened.http.get("/studio/run?name=noted").json()["record"]["text"] == "newer"
    save.click()
    said.get_by_text("Saved", exact=True).wait_for()
    assert opened.http.get("/studio/run?name=noted").json()["record"]["text"] == "mine"


def test_sampled_answers_are_shown_with_their_rewards(watched: Watched, opened: Opened) -> None:
    page, run = watched.page, write_run(opened.studio.root / "sampled", 3)
    with EventLog(run / "events.jsonl") as log:
        for step in (1, 2, 3):
            log.emit(
                AnswersJudged(
                    step=step, answers=8, tokens=90, failed=(), prompts=("where?", "where?"),
                    shown=(f"the best of step {step}", NASTY), rewards=(step + 0.25, -2.0),
                )
            )  # fmt: skip
    opened.studio.watcher.look()
    watched.go("run/sampled")
    shown = page.get_by_role("table", name="Sampled answers of step 3")
    shown.wait_for()
    for text in ("3.25", "the best of step 3", "-2", NASTY):
        assert text in shown.inner_text()
    page.get_by_role("button", name="Earlier").click()
    watched.sees("the best of step 2")
    # At an end, and where the newest is shown, the keyboard stays at the button.
    earlier, newest = (page.get_by_role("button", name=name, exact=True) for name in ("Earlier", "Newest"))
    for button, steps in ((earlier, (1, 1)), (newest, (3, 3))):
        button.focus()
        for step in steps:
            page.keyboard.press("Enter")
            watched.sees(f"the best of step {step}")
        assert button.evaluate("one => one === document.activeElement")


def test_marked_answers_become_a_file_to_train_on(watched: Watched, opened: Opened) -> None:
    page = watched.page
    body = {"prompt": [{"role": "user", "content": "0: parcel?"}], "chosen": "1", "rejected": "2"}
    opened.http.post("/studio/preferences", json=body)
    watched.go("chat")
    page.get_by_role("button", name="Train on preferences").click()
    page.wait_for_url(re.compile("objective=dpo"))
    watched.sees("row 1, chosen")
    wait_for(lambda: "objective=dpo" in page.locator("#command").inner_text())


def test_rewards_and_teachers_are_chosen_in_the_form(watched: Watched, opened: Opened, tiny_model: Path) -> None:
    page, root = watched.page, opened.studio.root
    rows = [{"messages": [{"role": "user", "content": f"{number}: parcel?"}], "solution": "1"} for number in range(6)]
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    asked = opened.client.files.create(file=("asked.jsonl", content), purpose="fine-tune")
    opened.client.files.wait_for_processing(asked.id, poll_interval=0.1)
    watched.go(f"data/{asked.id}")
    watched.sees("These rows have no answers")
    page.get_by_role("link", name="Train on it").click()
    page.wait_for_url(re.compile("objective=grpo"))
    watched.sees("row 1, prompt")
    page.get_by_label("metric", exact=True).select_option("contains")
    page.get_by_role("textbox", name="column").fill("solution")
    page.get_by_role("button", name="Add a reward").click()
    page.get_by_role("spinbutton", name="weight").nth(1).fill("0.5")
    command = page.locator("#command")
    wait_for(lambda: '{"metric": "contains", "column": "solution"}' in command.inner_text())
    wait_for(lambda: '{"metric": "exact", "weight": 0.5}' in command.inner_text())
    page.get_by_role("spinbutton", name="weight").nth(1).fill("")
    wait_for(lambda: '{"metric": "exact"}' in command.inner_text())
    for number in (2, 1):
        page.get_by_role("button", name=f"Remove reward {number}").click()
    watched.sees("Add a reward: then the plan of the run")
    assert page.get_by_role("button", name="Create job").is_disabled()
    # A teacher's adapter is one that a run of the folder has made.
    train_tracked(
        run_config(tiny_model, write_rows(root.parent / "taught.jsonl", taught(6)), root / "teacher", "train.steps=1")
    )
    opened.studio.watcher.look()
    watched.go("runs")
    watched.go(f"new?file={asked.id}&objective=distillation")
    watched.sees("Choose a teacher")
    file = {
        "name": "taught.jsonl",
        "mimeType": "application/jsonl",
        "buffer": (root.parent / "taught.jsonl").read_bytes(),
    }
    page.locator("input[type=file]").set_input_files(file)
    page.locator("select[name='distillation.teacher_adapter']").select_option("teacher")
    wait_for(lambda: "distillation.teacher_adapter=teacher" in command.inner_text(), 60)


def test_a_job_like_another_one_has_its_method_and_all_of_its_rewards(watched: Watched, opened: Opened) -> None:
    row = {"messages": [{"role": "user", "content": "parcel?"}], "solution": "1"}
    content = (json.dumps(row) + "\n").encode() * 4
    asked = opened.client.files.create(file=("asked.jsonl", content), purpose="fine-tune")
    opened.client.files.wait_for_processing(asked.id, poll_interval=0.1)
    reward = {"metric": "contains", "column": "solution", "weight": 0.5, "name": "right", "time_limit": 5,
              "on_error": "skip_row"}  # fmt: skip
    # No method is named: the job takes the default one.
    others = {"tracking.project": "2026", "lora.rank_pattern": {"layers.0.self_attn.q_proj": 8}}
    own = {"objective": "grpo", "settings": {**CPU, **others, "rewards": [reward]}}
    job = opened.client.fine_tuning.jobs.create(model="model", training_file=asked.id, extra_body={"veneer": own})
    opened.client.fine_tuning.jobs.cancel(job.id)

    def is_alike(answer: Any) -> bool:
        return answer.url.endswith("/estimate") and answer.request.post_data_json["veneer"]["objective"] == "grpo"

    with watched.page.expect_response(is_alike) as answered:
        watched.go(f"new?like={job.id}")
    sent = answered.value.request.post_data_json["veneer"]
    assert sent["method"] == "qlora"
    assert sent["settings"]["rewards"] == [reward]
    assert {key: sent["settings"][key] for key in others} == others


def test_a_job_like_another_one_leaves_out_no_python_that_is_not_told(
    watched: Watched, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opened.studio, "job_code", JobCode.RUN)
    page, content = watched.page, b'{"messages": [{"role": "user", "content": "parcel?"}], "answer": "1"}\n' * 4
    asked = opened.client.files.create(file=("asks.jsonl", content), purpose="fine-tune")
    opened.client.files.wait_for_processing(asked.id, poll_interval=0.1)
    source = "def grade(sample, item):\n    return 1.0\n"

    def alike(body: dict[str, Any], write: str = "") -> Any:
        """The rewards that the form of a job like that one plans with, after its empty Python was written."""

        def is_asked(request: Any) -> bool:
            return request.url.endswith("/estimate") and "rewards" in request.post_data_json["veneer"]["settings"]

        body = {"model": "model", "training_file": asked.id, **body}
        job = opened.http.post("/v1/fine_tuning/jobs", json=body).raise_for_status().json()
        opened.client.fine_tuning.jobs.cancel(job["id"])
        with page.expect_request(is_asked) as sent:
            watched.go(f"new?like={job['id']}")
            if write:
                watched.sees("The Python code of the reward mine is missing")
                watched.sees("Fill in every reward")
                assert page.get_by_role("button", name="Create job").is_disabled()
                page.get_by_label("Python with grade").fill(write)
        return sent.value.post_data_json["veneer"]["settings"]["rewards"]

    rewards = [{"metric": "exact", "weight": 0.7}, {"source": source, "name": "mine", "weight": 0.3}]
    rewards.append({"command": "judge --strict"})
    own = {"objective": "grpo", "settings": {**CPU, "rewards": rewards}}
    assert alike({"veneer": own}, source) == rewards
    # A grader of OpenAI's is told as it was given.
    check = {"type": "string_check", "name": "c", "operation": "eq", "input": "{{sample.output_text}}",
             "reference": "{{item.answer}}"}  # fmt: skip
    python = {"type": "python", "name": "p", "source": source}
    both = {"type": "multi", "graders": {"right": check, "mine": python}, "calculate_output": "right + 0.5 * mine"}
    method = {"type": "reinforcement", "reinforcement": {"grader": both}}
    found = alike({"method": method, "veneer": {"settings": CPU}})
    assert found[1] == {"source": source, "weight": 0.5, "name": "mine"}


def test_a_finished_run_is_evaluated_and_exported(
    watched: Watched, opened: Opened, tiny_model: Path, tmp_path: Path
) -> None:
    page, root = watched.page, opened.studio.root
    data = write_rows(tmp_path / "taught.jsonl", taught(6))
    train_tracked(run_config(tiny_model, data, root / "done" / "one", "train.steps=1"))
    opened.studio.watcher.look()
    watched.go("run/done%2Fone")
    page.get_by_role("link", name="Evaluate", exact=True).click()
    wait_for(lambda: page.locator("select[name=adapter]").input_value() == "done-one")
    page.locator("input[type=file]").set_input_files(data)
    wait_for(lambda: page.locator("select[name=rows]").input_value() != "")
    page.get_by_label("Gate: better by").fill("0.5")
    page.get_by_role("button", name="Evaluate").click()
    page.wait_for_url(re.compile("#/task/"))
    watched.sees("better by 0.5 or more", 90)
    watched.sees("of 6 rows were in the training data of the run")
    watched.sees("rows that became")
    watched.go("export?run=done%2Fone")
    wait_for(lambda: page.locator("select[name=adapter]").input_value() == "done-one")
    page.locator("select[name=to]").select_option("peft")
    page.get_by_role("button", name="Export").click()
    watched.sees("the same model", 90)
    with page.expect_download() as taken:
        page.get_by_role("row", name=re.compile("adapter_config.json")).get_by_role("link", name="Download").click()
    assert json.loads(Path(taken.value.path()).read_text("utf-8"))["peft_type"] == "LORA"
    watched.go("queue")
    watched.sees("export peft")


def test_a_run_whose_name_is_like_anothers_is_evaluated_exported_and_asked_by_its_own_adapter(
    watched: Watched, opened: Opened, tiny_model: Path, tmp_path: Path
) -> None:
    """The studio alone says what its adapter is called."""
    page, root = watched.page, opened.studio.root
    train_tracked(
        run_config(tiny_model, write_rows(tmp_path / "r.jsonl", taught(4)), root / "like" / "a", "train.steps=1")
    )
    shutil.copytree(root / "like" / "a", root / "like-a")
    opened.studio.watcher.look()
    name = opened.http.get("/studio/run?name=like/a").json()["adapter"]
    assert name.startswith("like-a-")
    for link in ("Evaluate", "Export", "Chat"):
        control = page.get_by_label("model 2") if link == "Chat" else page.locator("select[name=adapter]")
        with page.expect_response(re.compile(r"/studio/run\?")):
            watched.go("run/like%2Fa")
        with page.expect_response(re.compile("/studio/options")):
            page.locator("main").get_by_role("link", name=link, exact=True).click()
        playwright.expect(control).to_have_value(name)


def test_runs_are_compared_and_sweeps_shown(watched: Watched, opened: Opened) -> None:
    page = watched.page
    for name in ("sweep/low", "sweep/high"):
        page.get_by_label(f"choose {name} to compare").check()
    page.get_by_role("link", name=re.compile("Compare")).click()
    watched.sees("Settings that differ")
    page.locator("td:text-is('lora.rank')").wait_for()
    with page.expect_download() as taken:
        page.get_by_role("button", name="Quality against time as SVG").click()
    drawing = Path(taken.value.path()).read_text("utf-8")
    assert "sweep/low" in drawing
    assert "var(--" not in drawing
    with page.expect_download() as taken:
        page.get_by_role("button", name="Quality against memory as CSV").click()
    assert "on the Pareto front" in Path(taken.value.path()).read_text("utf-8")
    page.locator(".u-wrap canvas").first.wait_for()
    # Of more runs than have room it is said which are left out, and a sweep's link takes its best ones.
    names = [f"many/{number}" for number in range(9)]
    for number, name in enumerate(names):
        aim = "sft" if number else "dpo"
        write_run(opened.studio.root / name, 3, config=f"model: m\nmethod: lora\nobjective: {aim}\n")
    opened.studio.watcher.look()
    watched.go("sweeps")
    watched.sees("best")
    page.get_by_role("link", name="Compare the best 8").wait_for()
    watched.go(f"compare?runs={quote(json.dumps(names))}")
    watched.sees("8 of 9 runs")
    watched.sees("Not compared: many/8")
    watched.sees("Losses of different objectives (dpo, sft) cannot be compared")
    assert not any(text.startswith("-") for text in page.locator("svg[role=img] text").all_text_contents())


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


CONTROLS = """[...document.querySelectorAll('main :is(a[href], button, input, select, textarea, summary)')]
  .filter((one) => !one.disabled && one.checkVisibility())"""
"""What of a page can be used now."""
WIDE = """[...document.querySelectorAll('.scroll, .seg')].filter((one) => one.scrollWidth > one.clientWidth)
  .map((one) => one.textContent.trim().slice(0, 80))"""
"""Tables and choices that would have to be scrolled sideways."""
CONTRAST = """() => {
  const parse = (text) => (text.match(/[\\d.]+/g) || []).map(Number);
  const linear = (v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => [r, g, b].map((v) => linear(v / 255))
    .reduce((sum, v, place) => sum + v * [0.2126, 0.7152, 0.0722][place], 0);
  const ground = (one) => { for (; one; one = one.parentElement) { const c = getComputedStyle(one).backgroundColor;
    const p = parse(c); if (c.startsWith('rgb') && (p.length < 4 || p[3] === 1)) return p; } return [255, 255, 255]; };
  const bad = [];
  for (const one of document.querySelectorAll('main *, nav *')) {
    if (one.disabled || one.closest(':disabled') || !one.getClientRects().length) continue;
    const own = [...one.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!own && !one.placeholder) continue;
    const [a, b] = [light(parse(getComputedStyle(one, own ? null : '::placeholder').color)), light(ground(one))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) bad.push(`${(one.placeholder || one.textContent.trim()).slice(0, 30)}: ${ratio.toFixed(2)}`);
  }
  return bad;
}"""
"""Texts whose contrast with their ground is less than WCAG's AA asks for (4.5 to 1)."""


def test_a_thousand_runs_and_a_hundred_thousand_steps_are_usable(
    browser: Any, tmp_path: Path, tiny_model: Path
) -> None:
    for number in range(1_000):
        write_run(tmp_path / f"run-{number:04d}", 2, config="model: m\nmethod: lora\n")
    line = (write_run(tmp_path / "long", 1, reason=None) / "events.jsonl").read_text().splitlines()
    step = json.loads(next(one for one in line if '"StepDone"' in one))
    with (tmp_path / "long" / "events.jsonl").open("a") as log:
        for number in range(2, 100_001):
            log.write(json.dumps({**step, "step": number, "loss": 900.0 if number == 77_777 else 1.0}) + "\n")
    with studio(tmp_path) as opened:
        page = browser.new_context().new_page()
        page.goto(opened.running.link)
        page.get_by_text("1,001 in the folder").wait_for(timeout=90_000)
        page.get_by_placeholder("Search names").fill("long")
        page.get_by_role("link", name="long").click()
        page.locator(".u-wrap canvas").first.wait_for(timeout=90_000)
        found = opened.http.get(f"/studio/curves?name={quote('long')}").json()["curves"]["loss"]
        assert len(found["x"]) <= 2_000
        assert 77_777 in found["x"]
