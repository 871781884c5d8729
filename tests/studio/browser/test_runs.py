"""The list of runs, and their comparison."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any
from urllib.parse import quote

from helpers.processes.job_workers import wait_for
from helpers.run_folders.run_logs import rewarded, write_run
from helpers.servers.browsing import IN_A_BROWSER, Watched
from helpers.servers.studios import CPU, Opened, studio
from veneer.event_log import EventLog
from veneer.events import AnswersJudged

pytestmark = IN_A_BROWSER


def shlex_word(text: str) -> str:
    """A word for a shell that has single quotes in it."""
    return "'" + text.replace("'", "'\\''") + "'"


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


def test_a_large_sweep_shows_the_settings_of_every_run(watched: Watched, opened: Opened) -> None:
    page, folder = watched.page, opened.studio.root / "grid"

    def add(numbers: range) -> None:
        for number in numbers:
            write_run(folder / f"run-{number}", 2, config=f"model: m\nmethod: lora\nlora: {{rank: {number + 1}}}\n")
        opened.studio.watcher.look()

    add(range(70))
    watched.go("sweeps")
    table = page.get_by_role("table", name="Runs of grid")
    table.get_by_role("cell", name="70", exact=True).wait_for()
    watched.sees("70 runs; differing: lora.rank")
    # Runs that come while the page is open are asked for as well.
    add(range(70, 72))
    table.get_by_role("cell", name="72", exact=True).wait_for()
    shutil.rmtree(folder)  # the other tests' sweeps are looked for by what they have in common
    opened.studio.watcher.look()


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
