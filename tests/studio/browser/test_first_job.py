"""The whole path of a user: from a file to a job, its run and an answer."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from helpers.processes.job_workers import wait_for
from helpers.servers.browsing import IN_A_BROWSER, NASTY, Intercepted, Watched
from helpers.servers.studios import CPU, Opened

pytestmark = IN_A_BROWSER


@pytest.fixture(scope="module")
def taught(opened: Opened, tiny_data: Path) -> str:
    """The id of a file of rows that are in order, and one row whose characters are several tokens each."""
    far = json.dumps({"messages": [{"role": "user", "content": "東京?"}, {"role": "assistant", "content": "1"}]})
    lines = "\n".join([*tiny_data.read_text("utf-8").splitlines(), far]).encode()
    made = opened.client.files.create(file=("taught.jsonl", lines), purpose="fine-tune")
    opened.client.files.wait_for_processing(made.id, poll_interval=0.1)
    return made.id


@pytest.fixture(scope="module")
def trained(opened: Opened, taught: str) -> str:
    """The id of a job that has trained 12 steps."""
    jobs, body = opened.client.fine_tuning.jobs, {"method": "lora", "settings": {**CPU, "train.steps": 12}}
    made = jobs.create(model="model", training_file=taught, suffix="path", extra_body={"veneer": body})
    wait_for(lambda: jobs.retrieve(made.id).status == "succeeded", 90)
    return made.id


def write_settings(page: Any) -> None:
    """Fill in, beside the rank, the settings of runs that take a second."""
    for key, value in CPU.items():
        if key != "lora.rank":
            page.select_option(f"select:has(option[value='{key}'])", key)
            page.locator(f"label:has(span:text-is('{key}')) input").fill(str(value))


def test_findings_are_shown_as_text_whatever_a_file_and_its_rows_are_called(watched: Watched, tiny_data: Path) -> None:
    page = watched.page
    watched.go("data")
    broken = json.dumps({"messages": [{"role": "user", "content": NASTY}, {"role": "assistant", "content": ""}]})
    lines = "\n".join([*tiny_data.read_text("utf-8").splitlines(), broken]).encode()
    file = {"name": f"{NASTY}.jsonl", "mimeType": "application/jsonl", "buffer": lines}
    page.locator("input[type=file]").set_input_files(file)
    watched.sees("1 with errors")
    page.get_by_text(f"{NASTY}.jsonl").click()
    watched.sees("empty-turn")
    page.get_by_role("button", name="empty-turn").click()
    page.get_by_role("heading", name="1 row", exact=True).wait_for()
    wait_for(lambda: page.locator(".tokens").first.inner_text().count("onerror") == 1)
    assert page.locator("main img").count() == 0


def test_a_character_of_several_tokens_is_found_and_shown_once(watched: Watched, taught: str) -> None:
    page = watched.page
    watched.go(f"data/{taught}")
    page.get_by_label("Search in rows").fill("東京")
    page.get_by_role("heading", name="1 row", exact=True).wait_for()
    assert "東··京··?" in page.locator(".tokens").first.inner_text()


def test_a_job_is_planned_and_created_as_its_form_says(watched: Watched, opened: Opened, tiny_data: Path) -> None:
    page = watched.page
    watched.go("data")
    page.locator("input[type=file]").set_input_files(tiny_data)
    watched.sees("20 rows: 0 with errors")
    page.get_by_role("row", name=re.compile("^rows.jsonl")).get_by_role("link", name="Train on it").click()
    watched.sees("peak memory")
    page.select_option("select >> nth=1", "lora")
    page.fill("input[name='train.steps']", "12")
    wait_for(lambda: "train.steps=12" in page.locator("#command").inner_text())
    assert "--method lora" in page.locator("#command").inner_text()
    page.locator(".tokens .t").first.wait_for()
    write_settings(page)
    page.fill("input[placeholder=claims]", "path")
    page.get_by_role("button", name="Create job").click()
    page.wait_for_url(re.compile("#/run/ftjob"))
    made = opened.client.fine_tuning.jobs.cancel(page.url.rpartition("/")[2])
    own = opened.http.get(f"/v1/fine_tuning/jobs/{made.id}").json()["veneer"]
    assert own["name"].startswith("path")
    assert (own["settings"]["method"], own["settings"]["train"]["steps"]) == ("lora", 12)
    assert own["settings"]["compute"].items() >= {"device": "cpu", "dtype": "float32", "threads": 1}.items()


def test_what_cannot_be_used_is_said_at_its_field(watched: Watched, taught: str) -> None:
    """The browser counts no error of the page (`watched`)."""
    page = watched.page
    watched.go(f"new?file={taught}")
    watched.sees("peak memory")
    page.select_option("select >> nth=1", "lora")
    page.fill("input[name='lora.rank']", "many")
    page.locator("label:has(input[name='lora.rank'][aria-invalid=true]) small.bad").wait_for()
    assert page.get_by_role("button", name="Create job").is_disabled()
    page.fill("input[name='lora.rank']", "")
    page.locator("#command").wait_for()
    assert "--method lora" in page.locator("#command").inner_text()


def test_a_finished_runs_curve_is_drawn_and_taken_away_as_a_drawing(watched: Watched, trained: str) -> None:
    page = watched.page
    watched.go(f"run/{trained}")
    watched.sees("finished")
    page.locator(".u-wrap canvas").first.wait_for()
    with page.expect_download() as taken:
        page.get_by_role("button", name="Loss as SVG").click()
    drawing = Path(taken.value.path()).read_text("utf-8")
    assert drawing.startswith("<svg")
    assert "training, smoothed" in drawing
    watched.sees("run.lock")


def test_a_job_like_this_one_begins_with_its_settings(watched: Watched, trained: str) -> None:
    page = watched.page
    watched.go(f"run/{trained}")
    page.get_by_role("link", name="New job like this").click()
    wait_for(lambda: page.locator("input[name='train.steps']").input_value() == "12")
    wait_for(lambda: "train.steps=12" in page.locator("#command").inner_text())


def test_answers_that_are_compared_are_kept_as_they_were_asked(watched: Watched, opened: Opened, trained: str) -> None:
    page = watched.page
    watched.go(f"run/{trained}")
    page.locator("main").get_by_role("link", name="Chat", exact=True).click()
    page.get_by_label("model 2").wait_for(timeout=60_000)
    chosen = [page.get_by_label(f"model {place}").input_value() for place in (1, 2)]
    page.get_by_text("System message").first.click()
    page.get_by_label("System message").fill("asked with")
    answers = Intercepted(page, "**/v1/chat/completions")
    page.fill("#question", "0: parcel?")
    page.keyboard.press("Control+Enter")
    wait_for(lambda: page.locator(".turn").count() == 1)
    answers.arrived(2)
    # As long as a question is answered no other one is asked.
    page.fill("#question", "1: parcel?")
    page.keyboard.press("Control+Enter")
    for request in answers.waiting:
        # A model that was hardly trained does not end its answers, and those that are cut are marked nowhere.
        answer = request.fetch(timeout=60_000)
        request.fulfill(
            response=answer, body=answer.text().replace('"finish_reason":"length"', '"finish_reason":"stop"')
        )
    page.get_by_text(re.compile("tokens in")).nth(1).wait_for(timeout=60_000)
    answers.let_through()
    assert page.locator(".turn").inner_text() == "0: parcel?"
    assert len(answers.waiting) == 2
    # Models that answer already are offered no second time, and what is kept is what was asked.
    for place, other in ((1, chosen[1]), (2, chosen[0])):
        assert other not in page.get_by_label(f"model {place}").locator("option").all_inner_texts()
    page.get_by_label("System message").fill("typed since")
    page.get_by_role("button", name="This one is better").first.click()
    watched.sees("Kept as the better one")
    kept = opened.http.get("/studio/preferences").text.splitlines()
    assert [turn["content"] for turn in json.loads(kept[-1])["prompt"]] == ["asked with", "0: parcel?"]
