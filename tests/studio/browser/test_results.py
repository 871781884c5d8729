"""What is made of a finished run: evaluations, exports and chats."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

from helpers.models.tiny import rows as taught
from helpers.models.tiny import run_config, write_rows
from helpers.processes.job_workers import wait_for
from helpers.servers.browsing import IN_A_BROWSER, Watched
from helpers.servers.studios import Opened
from veneer.tracked_run import train_tracked

pytestmark = IN_A_BROWSER


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
    from playwright.sync_api import expect

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
        expect(control).to_have_value(name)
