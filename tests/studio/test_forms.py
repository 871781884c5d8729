"""The pages of files, new jobs, evaluations and exports in Debian's Chromium, where answers fail, are late or lost."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers.models.tiny import rows as taught
from helpers.models.tiny import write_rows
from helpers.processes.job_workers import wait_for
from helpers.run_folders.run_logs import write_run
from helpers.servers.browsing import CHROMIUM, Intercepted, Watched
from helpers.servers.studios import CPU, Opened

pytest.importorskip("playwright.sync_api", reason="playwright drives the browser")
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="Debian's chromium is not installed"),
    pytest.mark.slow,
]
JOBS = re.compile("/v1/fine_tuning/jobs$")


@pytest.fixture
def page(watched: Watched) -> Iterator[Any]:
    yield watched.page
    # What a test has broken off itself is no error of the page.
    watched.errors[:] = [error for error in watched.errors if "ERR_FAILED" not in error and "503" not in error]


@pytest.fixture(scope="module")
def file(opened: Opened) -> str:
    """The id of rows to train on."""
    content = "".join(json.dumps(row) + "\n" for row in taught(8)).encode()
    made = opened.client.files.create(file=("taught.jsonl", content), purpose="fine-tune")
    opened.client.files.wait_for_processing(made.id, poll_interval=0.1)
    return made.id


def fail_once(page: Any, path: Any, status: int | None = None) -> None:
    """The next answer is lost, or is an error of the studio."""

    def fail(route: Any) -> None:
        if status is None:
            route.abort()
        else:
            route.fulfill(status=status, json={"error": {"message": "it has failed"}})

    page.route(path, fail, times=1)


def test_files_are_asked_for_again_where_the_studio_did_not_answer(page: Any, watched: Watched, file: str) -> None:
    fail_once(page, "**/v1/files")
    watched.go("data")
    watched.sees("The studio does not answer")
    page.get_by_role("link", name="taught.jsonl").wait_for()
    watched.go("runs")
    fail_once(page, "**/v1/files", 503)
    watched.go("data")
    watched.sees("it has failed")


def test_a_plan_is_made_again_where_the_studio_did_not_answer(page: Any, watched: Watched, file: str) -> None:
    fail_once(page, "**/jobs/estimate")
    fail_once(page, "**/jobs/preview")
    watched.go(f"new?file={file}")
    page.get_by_text("The studio does not answer").wait_for()
    page.locator("#command").wait_for()
    wait_for(lambda: page.get_by_role("button", name="Create job").is_enabled())
    page.locator(".tokens .t").first.wait_for()


def test_a_file_that_was_mended_is_taken_when_it_is_chosen_again(page: Any, watched: Watched, tmp_path: Path) -> None:
    rows = tmp_path / "mended.jsonl"
    watched.go("data")
    page.locator("input[type=file]").wait_for(state="attached")
    chromium = page.context.new_cdp_session(page)

    def choose(content: str, state: str) -> None:
        # The browser's own way: playwright tells pages of a choice that Chromium tells nothing of.
        rows.write_text(content)
        document = chromium.send("DOM.getDocument")["root"]["nodeId"]
        chosen = chromium.send("DOM.querySelector", {"nodeId": document, "selector": "input[type=file]"})
        chromium.send("DOM.setFileInputFiles", {"files": [str(rows)], **chosen})
        page.get_by_role("row", name=re.compile(f"^mended.jsonl {state}")).wait_for()

    choose('{"prompt": ', "cannot be used")
    choose(write_rows(tmp_path / "fine.jsonl", taught(4)).read_text(), "ready")


def test_a_file_that_is_refused_keeps_back_none_of_the_others(page: Any, watched: Watched) -> None:
    watched.go("data")
    page.locator(".drop").wait_for()
    page.evaluate("""() => { const taken = new DataTransfer();
      for (const name of ['notes.docx', 'good.jsonl', 'more.docx'])
        taken.items.add(new File(['{"text": "a"}\\n'], name));
      const dropped = new DragEvent('drop', { bubbles: true, dataTransfer: taken });
      document.querySelector('.drop').dispatchEvent(dropped); }""")
    page.get_by_role("link", name="good.jsonl").wait_for()
    said = page.locator(".drop [role=alert]")
    said.wait_for()
    assert [line.split(":")[0] for line in said.inner_text().splitlines()] == ["notes.docx", "more.docx"]


def test_the_page_of_a_file_follows_its_check_and_its_end(page: Any, watched: Watched, opened: Opened) -> None:
    content = b'{"messages": [{"role": "user", "content": "1: parcel?"}]}\n' * 3
    made = opened.client.files.create(file=("asks.jsonl", content), purpose="fine-tune")
    opened.client.files.wait_for_processing(made.id, poll_interval=0.1)

    def unchecked(route: Any) -> None:
        found = route.fetch().json()
        route.fulfill(json={**found, "status": "uploaded", "veneer": {"rows": None, "asks": False}})

    answers = Intercepted(page, f"**/v1/files/{made.id}", unchecked)
    # Its check reads the rows when they are gone already; that there is no such file says more.
    checks = Intercepted(page, "**/studio/lint?*")
    watched.go(f"data/{made.id}")
    wait_for(lambda: page.get_by_role("button", name="Train on it").is_disabled())
    assert page.get_by_role("link", name="Train on it").count() == 0
    answers.let_through()
    watched.sees("These rows have no answers")
    assert "objective=grpo" in page.get_by_role("link", name="Train on it").get_attribute("href")
    checks.arrived(1)
    opened.client.files.delete(made.id)
    watched.sees("there is no such file")
    with page.expect_response("**/studio/lint?*") as late:
        for check in checks.waiting:
            check.fulfill(status=503, json={"error": {"message": "asks.jsonl does not exist"}})
    late.value.finished()
    page.evaluate("new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")
    assert page.get_by_role("alert").all_inner_texts() == ["file_id: there is no such file"]
    assert page.get_by_role("link", name="Train on it").count() == 0


def test_buttons_of_files_keep_the_keyboard(page: Any, watched: Watched, opened: Opened, file: str) -> None:
    focused = "one => one === document.activeElement"
    content = "".join(json.dumps(row) + "\n" for row in taught(12)).encode()
    made = [opened.client.files.create(file=(f"{name}.jsonl", content), purpose="fine-tune") for name in "ab"]
    for one in made:
        opened.client.files.wait_for_processing(one.id, poll_interval=0.1)
    watched.go(f"data/{made[0].id}")
    for name, shown in (("Next", "11–12"), ("Back", "1–10")):
        button = page.get_by_role("button", name=name, exact=True)
        button.focus()
        page.keyboard.press("Enter")
        page.get_by_text(shown).wait_for()
        page.keyboard.press("Enter")
        assert button.evaluate(focused)
    watched.go("data")
    page.get_by_role("button", name="File", exact=True).click()
    page.locator("th[aria-sort=ascending]", has_text="File").wait_for()
    first, second = (page.get_by_role("button", name=f"delete {name}.jsonl") for name in "ab")
    asked = page.get_by_role("button", name="Really delete a.jsonl?")
    first.focus()
    page.keyboard.press("Enter")
    asked.wait_for()
    page.keyboard.press("Escape")
    asked.wait_for(state="detached")
    page.keyboard.press("Enter")
    asked.wait_for()
    page.keyboard.press("Enter")
    first.wait_for(state="detached")
    wait_for(lambda: second.evaluate(focused))


def test_the_row_that_was_asked_for_last_is_shown(page: Any, watched: Watched, file: str) -> None:
    watched.go(f"data/{file}")
    wait_for(lambda: page.get_by_role("button", name="Show", exact=True).is_enabled())
    previews = Intercepted(page, "**/jobs/preview")
    for row in ("5", "6"):
        page.get_by_role("spinbutton", name="row").fill(row)
        page.get_by_role("button", name="Show", exact=True).click()
    first, second = previews.arrived(2)
    card = page.locator("section", has=page.get_by_role("heading", name="Any row"))
    second.continue_()
    card.get_by_text("row 6").wait_for()
    with page.expect_response("**/jobs/preview") as late:
        first.continue_()
    late.value.finished()
    page.evaluate("new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")
    assert card.get_by_text("row 6").count() == 1
    assert card.get_by_text("row 5").count() == 0


def test_what_is_typed_for_a_job_is_there_again_after_a_step_aside_until_it_is_made(
    page: Any, watched: Watched, file: str
) -> None:
    watched.go(f"new?file={file}")
    page.locator("#command").wait_for()
    page.fill("input[name='train.steps']", "1")
    page.fill("input[placeholder=claims]", "typed")
    page.get_by_role("link", name="What the check found").click()
    page.get_by_role("heading", name="Any row").wait_for()
    page.go_back()
    wait_for(lambda: page.locator("input[name='train.steps']").input_value() == "1")
    assert page.locator("input[placeholder=claims]").input_value() == "typed"
    wait_for(lambda: page.get_by_role("button", name="Create job").is_enabled())
    page.get_by_role("button", name="Create job").click()
    page.wait_for_url(re.compile("#/run/"))
    # The address changes before the page does.
    page.locator("input[name='train.steps']").wait_for(state="detached")
    page.go_back()
    page.locator("input[name='train.steps']").wait_for()
    assert page.locator("input[name='train.steps']").input_value() == ""


def test_a_job_whose_answer_was_lost_is_not_made_twice(page: Any, watched: Watched, opened: Opened, file: str) -> None:
    watched.go(f"new?file={file}")
    page.locator("#command").wait_for()
    page.fill("input[name='train.steps']", "1")
    page.fill("input[placeholder=claims]", "lost")
    create = page.get_by_role("button", name="Create job")
    wait_for(lambda: "train.steps=1" in page.locator("#command").inner_text() and create.is_enabled())

    def lose(route: Any) -> None:
        route.fetch()
        route.abort()

    page.route(JOBS, lose, times=1)
    create.click()
    watched.sees("The studio does not answer")
    create.click()
    page.wait_for_url(re.compile("#/run/ftjob"))
    names = [job["veneer"]["name"] for job in opened.http.get("/v1/fine_tuning/jobs").json()["data"]]
    assert len([name for name in names if name.startswith("lost-")]) == 1


def test_a_number_that_is_too_large_is_refused_and_not_left_out(page: Any, watched: Watched, file: str) -> None:
    watched.go(f"new?file={file}")
    page.locator("#command").wait_for()
    for key, value in (("train.steps", "9" * 400), ("train.learning_rate", "1e999")):
        page.fill(f"input[name='{key}']", value)
        page.locator(f"label:has(input[name='{key}'][aria-invalid=true]) small.bad").wait_for()
        assert page.get_by_role("button", name="Create job").is_disabled()
        page.fill(f"input[name='{key}']", "")
        page.locator("#command").wait_for()
    with page.expect_request("**/jobs/estimate") as sent:
        page.locator("label:has(span:text-is('Seed')) input").fill("9" * 400)
    assert sent.value.post_data_json["seed"] == "9" * 400


def test_a_problem_is_shown_at_its_own_field_alone(page: Any, watched: Watched, file: str) -> None:
    watched.go(f"new?file={file}")
    page.locator("#command").wait_for()
    page.locator("select:has(option[value='lora.rank_pattern'])").select_option("lora.rank_pattern")
    page.fill("input[name='lora.rank_pattern']", "{q_proj: -1}")
    told = page.locator("small.bad")
    told.first.wait_for()
    assert page.locator("[aria-invalid=true]").evaluate_all("all => all.map((one) => one.name)") == [
        "lora.rank_pattern"
    ]
    assert told.all_inner_texts()[0].startswith("lora.rank_pattern")


def test_the_preview_of_a_row_that_is_too_long_says_that_its_beginning_is_shown(
    page: Any, watched: Watched, file: str
) -> None:
    watched.go(f"new?file={file}")
    page.locator("#command").wait_for()
    page.locator("select:has(option[value='data.max_length'])").select_option("data.max_length")
    page.fill("input[name='data.max_length']", "16")
    watched.sees("more than data.max_length; of the first 16,")
    assert page.locator("article .tokens").first.inner_text().endswith(" …")


def test_a_file_with_other_names_of_columns_is_trained_by_data_columns(
    page: Any, watched: Watched, opened: Opened
) -> None:
    content = "frage,antwort\n" + "".join(f"Wo ist {n}?,In Köln.\n" for n in range(8))
    made = opened.client.files.create(file=("mails.csv", content.encode()), purpose="fine-tune")
    opened.client.files.wait_for_processing(made.id, poll_interval=0.1)
    watched.go("new")
    rows = page.locator("select:has(option:text-is('choose a file'))")
    rows.locator("option:text-is('mails.csv (8 rows): needs data.columns')").wait_for(state="attached")
    rows.select_option(made.id)
    watched.sees("Give the names of the file's columns by the setting data.columns")
    page.locator("select:has(option[value='data.columns'])").select_option("data.columns")
    page.fill("input[name='data.columns']", "{prompt: frage, completion: antwort}")
    page.locator("#command").wait_for()
    watched.sees("What is trained")
    assert "In Köln." in page.locator("article .tokens").first.inner_text().replace("·", "")
    assert page.get_by_role("button", name="Create job").is_enabled()


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("lora.rank_pattern", "{q_proj: 8, 'v_proj': 4}", {"q_proj": 8, "v_proj": 4}),
        ("lora.exclude_modules", '[k_proj, "o_proj"]', ["k_proj", "o_proj"]),
        ("lora.target_modules", "[qv]_proj[s]?", "[qv]_proj[s]?"),
        ("lora.target_modules", "[qv]_proj[s]", "[qv]_proj[s]"),
    ],
)
def test_lists_and_mappings_may_be_typed_as_in_yaml(
    page: Any, watched: Watched, file: str, key: str, text: str, value: object
) -> None:
    watched.go(f"new?file={file}")
    page.locator("#command").wait_for()
    page.locator(f"select:has(option[value='{key}'])").select_option(key)

    def has_value(request: Any) -> bool:
        return "/jobs/estimate" in request.url and request.post_data_json["veneer"]["settings"].get(key) == value

    with page.expect_request(has_value):
        page.fill(f"input[name='{key}']", text)


def test_the_arrow_keys_look_through_the_settings_and_enter_adds_the_one_that_is_shown(
    page: Any, watched: Watched, file: str
) -> None:
    watched.go(f"new?file={file}")
    page.locator("#command").wait_for()
    offered = page.locator("select:has(option:text-is('add a setting …'))")
    added = page.locator("label.field span.mono")
    offered.focus()
    for _ in range(3):
        page.keyboard.press("ArrowDown")
    chosen = offered.input_value()
    assert chosen
    assert added.count() == 0
    page.keyboard.press("Enter")
    added.first.wait_for()
    assert added.all_inner_texts() == [chosen]
    assert page.url.endswith(f"new?file={file}"), "Enter has made no job"
    # A choice is taken back by Escape. Whoever goes on has made it.
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Escape")
    assert offered.input_value() == ""
    page.keyboard.type("lora.alpha")
    page.keyboard.press("Tab")
    page.locator("input[name='lora.alpha']").wait_for()
    assert added.all_inner_texts() == [chosen, "lora.alpha"]


def test_a_setting_that_is_emptied_waits_for_another_value(page: Any, watched: Watched, file: str) -> None:
    watched.go(f"new?file={file}")
    page.locator("#command").wait_for()
    page.locator("select:has(option[value='lora.alpha'])").select_option("lora.alpha")
    field = page.locator("input[name='lora.alpha']")
    field.focus()
    page.keyboard.press("Control+A")
    page.keyboard.press("Backspace")
    wait_for(lambda: "lora.alpha" not in page.locator("#command").inner_text())
    assert field.evaluate("one => one === document.activeElement")
    page.keyboard.type("8")
    wait_for(lambda: "lora.alpha=8" in page.locator("#command").inner_text())


def test_the_keyboard_stays_with_the_rewards_when_one_is_removed(page: Any, watched: Watched) -> None:
    watched.go("new?objective=grpo")
    add = page.get_by_role("button", name="Add a reward")
    add.click()
    second = page.get_by_role("button", name="Remove reward 2")
    second.focus()
    page.keyboard.press("Enter")
    second.wait_for(state="detached")
    first = page.get_by_role("button", name="Remove reward 1")
    assert first.evaluate("one => one === document.activeElement")
    page.keyboard.press("Enter")
    first.wait_for(state="detached")
    assert add.evaluate("one => one === document.activeElement")


def test_adapters_of_runs_that_end_meanwhile_are_offered(page: Any, watched: Watched, opened: Opened) -> None:
    watched.go("export")
    adapters = page.locator("select[name=adapter]")
    adapters.wait_for()
    made = write_run(opened.studio.root / "late", 1, config="model: m\nmethod: lora\n")
    (made / "adapter_config.json").write_text("{}")
    opened.studio.watcher.look()
    adapters.locator("option[value=late]").wait_for(state="attached")


@pytest.mark.parametrize(("at", "path"), [("report/told", "**/studio/report*"), ("chat", "**/studio/options")])
def test_a_page_whose_answer_is_on_its_way_says_so(
    page: Any, watched: Watched, opened: Opened, at: str, path: str
) -> None:
    write_run(opened.studio.root / "told", 1)
    opened.studio.watcher.look()
    Intercepted(page, path)
    watched.go(at)
    page.locator("main").get_by_text("Loading …").wait_for()


def test_warnings_of_several_lines_stand_in_several_and_a_missing_run_is_said(
    page: Any, watched: Watched, opened: Opened
) -> None:
    write_run(opened.studio.root / "warned", 1)
    opened.studio.watcher.look()
    report = {"rows": 1, "seconds": 1.0, "warnings": ["Rows:\n- one\n- two"], "comparison": [], "base": []}
    found = {"report": report, "shares": [], "lower": [], "answered": 1, "worst": [], "best": [], "title": "Told"}
    page.route("**/studio/report*", lambda route: route.fulfill(json=found))
    watched.go("report/warned")
    watched.sees("Keep in mind")
    assert page.locator(".told li").first.inner_text().splitlines() == ["Rows:", "- one", "- two"]
    watched.go("report/none")
    watched.sees("The folder has no run with this name.")


@pytest.mark.parametrize(
    ("at", "said"),
    [
        ("new?like=gone", "The job gone does not exist"),
        ("new?file=gone", "The file of rows to train on does not exist"),
        ("report?run=gone", "The run gone does not exist"),
        ("export?run=gone", "The run gone does not exist"),
        ("task/gone", "This evaluation or export does not exist"),
    ],
)
def test_a_link_to_what_is_gone_says_so(page: Any, watched: Watched, at: str, said: str) -> None:
    watched.go(at)
    watched.sees(said)
    page.locator("h1").wait_for()
    assert page.title().startswith(page.locator("h1").inner_text())


def test_a_job_like_one_whose_file_was_deleted_says_so(page: Any, watched: Watched, opened: Opened) -> None:
    content = "".join(json.dumps(row) + "\n" for row in taught(4)).encode()
    rows = opened.client.files.create(file=("brief.jsonl", content), purpose="fine-tune")
    opened.client.files.wait_for_processing(rows.id, poll_interval=0.1)
    body = {"model": "model", "training_file": rows.id, "veneer": {"method": "lora", "settings": CPU}}
    job = opened.http.post("/v1/fine_tuning/jobs", json=body).raise_for_status().json()
    opened.client.fine_tuning.jobs.cancel(job["id"])
    # A file that a job may still read is not deleted.
    wait_for(lambda: opened.client.fine_tuning.jobs.retrieve(job["id"]).status == "cancelled")
    opened.client.files.delete(rows.id)
    watched.go(f"new?like={job['id']}")
    watched.sees("The file of rows to train on does not exist")
