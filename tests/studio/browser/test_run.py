"""The page of a run: its curves, samples, answers and notes."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from helpers.models.tiny import run_config
from helpers.processes.job_workers import wait_for
from helpers.run_folders.run_logs import rewarded, step_done, write_run
from helpers.servers.browsing import (
    IN_A_BROWSER,
    MOVED,
    NASTY,
    NOTED,
    Intercepted,
    Watched,
    first_fails,
    held,
    without_breaks,
)
from helpers.servers.studios import Opened
from veneer.event_log import EventLog
from veneer.events import AnswersJudged
from veneer.tracked_run import train_tracked
from veneer.training.evaluations import shown_prompts

pytestmark = IN_A_BROWSER


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
    curves = Intercepted(page, "**/studio/curves*")
    with page.expect_request("**/studio/curves*"):
        watched.go("run/still")
    watched.sees("Checkpoints")
    sizes = "plots => plots.map((plot) => plot.offsetHeight)"
    before = page.locator(".plot").evaluate_all(sizes)
    for route in curves.arrived(1):
        route.continue_()
    watched.sees("single steps")
    page.locator(".plot canvas").first.wait_for()
    assert page.locator(".plot").evaluate_all(sizes) == before


def test_a_run_is_not_said_to_be_missing_before_the_runs_are_known(watched: Watched) -> None:
    page, missing = watched.page, "The folder has no run with this name."
    watched.go("run/nowhere")
    watched.sees(missing)
    with held(page, "**/studio/changes*"):
        page.reload()
        watched.sees("nowhere")
        assert missing not in page.locator("body").inner_text()
        watched.sees("connecting …")
    watched.sees(missing)


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
            with held(page, late) as requests:
                page.goto(f"{watched.address}/#/{at}")
                page.locator(first).first.wait_for(timeout=20_000)
                page.evaluate(NOTED)
                requests.arrived(1)
            page.locator(then).first.wait_for(timeout=20_000)
            moved[width, at, late] = page.evaluate(MOVED)
        context.close()
    assert {case: found for case, found in moved.items() if found} == {}


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
    first_fails(page, "**/studio/differing?*")
    watched.go(f"compare?runs={quote(json.dumps(['sweep/low', 'sweep/high']))}")
    watched.sees("The settings could not be loaded")
    assert page.get_by_text("No setting differs").count() == 0
    page.locator("td:text-is('lora.rank')").wait_for()
    watched.errors[:] = without_breaks(watched.errors)


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
        lambda: (
            page.evaluate("import('/static/common/store.js').then(({ store }) => store.runs.get('noted').text)")
            == "newer"
        )
    )
    page.wait_for_timeout(300)
    save.click()
    said.get_by_text("“newer”. Save again to replace them.").wait_for()
    assert page.get_by_label("Text").input_value() == "mine"
    assert opened.http.get("/studio/run?name=noted").json()["record"]["text"] == "newer"
    save.click()
    said.get_by_text("Saved", exact=True).wait_for()
    assert opened.http.get("/studio/run?name=noted").json()["record"]["text"] == "mine"


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
